"""Our SELinux modules, by secilc, against a policy of the base's shape with and without the base's wall."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from veilor.build.check.finding import Finding, run_tool

MODULES = "bluebuild/files/selinux"
SHAPE = "stand-ins/image"
REACH = f"{SHAPE}/reach.cil"
BRAVE = f"{MODULES}/veilor_brave.cil"
SAID = re.compile(r"line (\d+) of (\S+\.cil)|(\S+\.cil):(\d+)")


def check_cil(root: Path, run) -> list[Finding]:
    """Our SELinux modules compile on the base, with its wall and without, and let Brave reach what it needs.

    They leave the wall standing for all other domains.
    """
    modules, found = sorted((root / MODULES).glob("*.cil")), []
    for base in (["base.cil"], ["base.cil", "wall.cil"]):
        files = [str(root / SHAPE / name) for name in base] + [str(path) for path in modules]
        code, said = run_tool(
            run, ["secilc", "--output=/dev/null", "--filecontext=/dev/null", *files], [root]
        )
        if not code:
            continue
        places = [(hit[2] or hit[3], int(hit[1] or hit[4])) for hit in SAID.finditer(said)]
        path, line = next(
            ((path, line) for path, line in places if MODULES in path), places[0] if places else (MODULES, 0)
        )
        text = " ".join(said.replace(f"{root}/", "").split())
        found.append(
            Finding(
                path.replace(f"{root}/", ""), line, f"secilc refuses it on {' and '.join(base)}: {text[:300]}"
            )
        )
    return found or list(out_of_reach(root, run))


def out_of_reach(root: Path, run) -> Iterator[Finding]:
    """A finding for each line of REACH that the compiler does not refuse.

    Each of these lines forbids something that Brave needs, and so has to be refused.
    """
    files = [str(root / name) for name in (f"{SHAPE}/base.cil", BRAVE, REACH)]
    _, said = run_tool(run, ["secilc", "--output=/dev/null", "--filecontext=/dev/null", *files], [root])
    refused = {
        int(line) for line in re.findall(rf"neverallow check failed at \S*{re.escape(REACH)}:(\d+)", said)
    }
    for number, line in enumerate((root / REACH).read_text().splitlines(), 1):
        if line.startswith("(neverallow") and number not in refused:
            yield Finding(BRAVE, 0, f"Brave has no right to what {REACH}:{number} is about: {line}")
