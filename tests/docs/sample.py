"""An invented run of the scenario `life`, to look at the report without a machine.

`python tests/docs/sample.py DIR` writes its report, to be looked at while working on the page. Nothing of it
was shown.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

from veilor.lab.report import load_stand_ins, write_report
from veilor.lab.result import About, Host, PhaseResult, Run, Screenshot, Timing
from veilor.lab.scenario import load_scenario
from veilor.lab.verdict import Check, Verdict, phase_verdict

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>document.title = 'taken over'</script><img src=https://example.org/x.png onerror=alert(1)>"


def png(width: int, height: int, shade: int) -> bytes:
    """A plain grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([shade]) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def sample(pictures: Path) -> Run:
    """A run with every verdict in it, long and hostile details, pictures (in PICTURES) and consoles."""
    scenario = load_scenario("life", ROOT / "scenarios")
    phases = []
    for number, one in enumerate(scenario.phases):
        checks = [
            Check(f"check {n} of {one.name}", True, "0123456789abcdef" * (4 if n % 3 else 16), Verdict.PASS)
            for n in range(9)
        ]
        said = f"line one\nline two {HOSTILE}\n" + "more\n" * 9
        checks.append(Check("what the machine said is shown as it said it", True, said, Verdict.PASS))
        if one.name == "update":
            checks.append(Check("v2 is unlocked", False, "got True, want False", Verdict.OS_FAULT))
        if one.name == "update-attacks":
            checks.append(Check("SELinux denies it", None, "this base has no SELinux", Verdict.NOT_RUN))
        verdict, reason = phase_verdict(checks, None)
        shot = pictures / f"{one.name}.png"
        shot.write_bytes(png(720, 400, 20 + 9 * number))
        console = "".join(
            f"[ {line:9.4f}] a line of the console, of no meaning {HOSTILE}\n" for line in range(60)
        )
        result = PhaseResult(
            one.name,
            one.title,
            verdict,
            60.0 + 97 * (number % 4),
            number % 4 + 1,
            "",
            "",
            checks,
            [Screenshot(str(shot), f"The screen in “{one.title}”")],
            console,
            "",
            reason,
        )
        phases.append(result)
    phases[2].retried = "QEMU ended by itself with signal 9"
    about = About(
        "Debian 13 stand-in",
        Host("tcg", "10.0.13", 2),
        list(load_stand_ins()),
        None,
        [Timing("tools tree", 67.0), Timing("base tree", 91.0), Timing("programs from crates", 284.0)],
    )
    return Run(
        "life",
        scenario.title,
        scenario.story,
        "2026-01-01T00:00:00Z",
        about,
        phases,
        sum(p.seconds for p in phases) + 40,
        log=HOSTILE,
        timings=[
            Timing("boots", 60.0),
            Timing("boots", 900.0),
            Timing("images", 40.0),
            Timing("checkpoints", 30.0),
        ],
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print(write_report(sample(folder), folder / "report"))
