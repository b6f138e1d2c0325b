"""The report of a rehearsal: index.html for people, report.json and junit.xml for programs."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from veilor.core.product import load
from veilor.lab.cache import write_atomic
from veilor.lab.result import NotApplied, PhaseResult, Run
from veilor.lab.verdict import Check, Verdict

HERE = Path(__file__).parent
PRODUCT = HERE.parents[2] / "product.toml"
STAND_INS, NOT_APPLIED = HERE / "stand_ins.toml", HERE / "not_applied.toml"
KiB = 1 << 10
CONSOLE_HEAD, CONSOLE_TAIL = 64 * KiB, 192 * KiB  # of a phase's console, what goes into the report
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()*+][0-9A-Za-z]|[=>78cDEHMZ])"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
MARKS = {Verdict.PASS: "✓", Verdict.OS_FAULT: "✗", Verdict.LAB_FAULT: "!", Verdict.NOT_RUN: "–"}
WORDS = {
    Verdict.PASS: "held",
    Verdict.OS_FAULT: "failed",
    Verdict.LAB_FAULT: "rehearsal broke",
    Verdict.NOT_RUN: "not run",
}


@dataclass(frozen=True)
class StandIn:
    """A part of the lab that takes the place of a real one.

    `command` rehearses with the real one, where one can; `seen` is when and how that was seen, or nothing.
    """

    id: str
    title: str
    stands_for: str
    why: str
    replaced_by: str
    command: str
    seen: str = ""


def load_stand_ins(path: Path = STAND_INS) -> dict[str, StandIn]:
    """All declared stand-ins by id, in the file's order.

    Raises TypeError or ValueError when the file has not that shape.
    """
    product = load(PRODUCT)
    entries = [
        StandIn(**{**entry, "command": product.fill_in(entry["command"])})
        for entry in tomllib.loads(path.read_text())["stand_in"]
    ]
    found = {entry.id: entry for entry in entries}
    if len(found) != len(entries):
        raise ValueError(f"{path.name}: an id is there twice")
    return found


def load_not_applied(path: Path = NOT_APPLIED, has: Collection[str] = ()) -> list[NotApplied]:
    """What of overlay/ has no effect on the stand-in base, which HAS these packages besides its own."""
    settings = tomllib.loads(path.read_text())["setting"]
    return [NotApplied(one["path"], one["why"]) for one in settings if one["needs"] not in has]


def clean_text(text: str) -> str:
    """TEXT without terminal escapes and control characters, so that HTML and XML can hold it."""
    return _CONTROL.sub("", _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def clean_console(raw: bytes) -> str:
    """A console's bytes as readable text; of a very long one the beginning and the end."""
    text = raw.decode(errors="replace")
    if len(text) > CONSOLE_HEAD + CONSOLE_TAIL:
        left_out = len(text) - CONSOLE_HEAD - CONSOLE_TAIL
        text = f"{text[:CONSOLE_HEAD]}\n[… {left_out} characters left out …]\n{text[-CONSOLE_TAIL:]}"
    return re.sub(r"\n{3,}", "\n\n", clean_text(text))


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: 43 s, 2 min 05 s, 1 h 02 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_count(number: int, noun: str) -> str:
    """A number with its noun: 1 boot, 3 boots, no boots."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def verdict_word(phase: PhaseResult) -> str:
    """A phase's verdict in everyday words."""
    held_in_part = phase.verdict is Verdict.NOT_RUN and any(check.ok for check in phase.checks)
    return "held in part" if held_in_part else WORDS[phase.verdict]


def plain_detail(detail: str) -> str:
    """What a check saw, as a person reads it.

    A single word loses its quotes, and what is empty is called “nothing”.
    """
    text = clean_text(detail).strip()
    if text in ("''", "[]", "{}", "None"):
        return "nothing"
    quoted = re.fullmatch(r"'([^'\\]*)'", text)
    return quoted[1] if quoted else text


def format_time_stamp(stamp: str) -> str:
    """A time stamp of ours as a person reads it."""
    return stamp.replace("T", " ").replace("Z", " UTC")


def headline(run: Run) -> tuple[str, str]:
    """Two sentences for somebody who never saw a rehearsal: what came of RUN, and what that means."""
    verdict = run.verdict
    guilty = next((p for p in run.phases if p.verdict is verdict), None)
    where = f"“{guilty.title}”" if guilty and run.fault is not verdict else "the set-up"
    reason = clean_text(run.reason if run.fault is verdict else guilty.reason if guilty else "").rstrip(" .")
    if verdict is Verdict.PASS:
        checks = sum(len(p.checks) for p in run.phases)
        parts = format_count(len(run.about.stand_ins), "stand-in")
        on = f", with {parts} in the place of real parts" if run.about.stand_ins else ""
        return (
            f"{run.story or run.title}: all of it held.",
            f"{format_count(checks, 'check')} in {format_count(len(run.phases), 'phase')}{on}.",
        )
    if verdict is Verdict.OS_FAULT:
        return (
            f"{where} failed: {reason}.",
            "The machine did not do what veilor-os promises: this is a fault of the product.",
        )
    if verdict is Verdict.LAB_FAULT:
        where = where if guilty and run.fault is not verdict else "its own set-up or clean-up"
        return (
            f"The rehearsal itself broke down in {where}: {reason}.",
            "This says nothing about the product, neither good nor bad.",
        )
    held = sum(p.verdict is Verdict.PASS for p in run.phases)
    meaning = (
        f"{held} of {format_count(len(run.phases), 'phase')} came to their end and held. Until all have, "
        "nothing is called passed."
    )
    if run.interrupted:
        return "The rehearsal was stopped before its end by the person who ran it.", meaning
    if not any(p.checks for p in run.phases):
        return (
            f"Nothing was rehearsed: {reason}.",
            "This says nothing about the product, neither good nor bad.",
        )
    return f"Not everything was shown: {where}: {reason}.", meaning


def junit_xml(run: Run) -> bytes:
    """The run as JUnit XML: a suite per phase, a case per check, one for how the phase as a whole ended."""
    kinds = {Verdict.OS_FAULT: "failure", Verdict.LAB_FAULT: "error", Verdict.NOT_RUN: "skipped"}
    root = ElementTree.Element("testsuites", name=run.scenario, time=f"{run.seconds:.1f}")
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)

    def add(
        suite: ElementTree.Element, title: str, verdict: Verdict, seconds: float, message: str, text: str
    ) -> None:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=suite.get("name", ""),
            name=clean_text(title),
            time=f"{seconds:.1f}",
        )
        if verdict in kinds:
            bad = ElementTree.SubElement(case, kinds[verdict], message=clean_text(message))
            bad.set("type", str(verdict))
            bad.text = clean_text(text)

    suites: list[tuple[str, str, Verdict, float, str, str, list[Check]]] = [
        (p.name, p.title, p.verdict, p.seconds, p.reason, p.log, p.checks) for p in run.phases
    ]
    if run.fault is not Verdict.PASS:
        suites.insert(0, ("rehearsal", "The rehearsal", run.fault, 0.0, run.reason, run.log, []))
    for name, title, verdict, seconds, reason, log, checks in suites:
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"{run.scenario}.{name}",
            time=f"{seconds:.1f}",
            timestamp=run.started.rstrip("Z"),
        )
        for check in checks:
            add(suite, check.title, check.verdict, 0, check.detail or check.title, "")
        add(suite, f"{title}: as a whole", verdict, seconds, reason, log)
        counts = {
            "tests": len(suite),
            "failures": len(suite.findall("*/failure")),
            "errors": len(suite.findall("*/error")),
            "skipped": len(suite.findall("*/skipped")),
        }
        for what, number in counts.items():
            suite.set(what, str(number))
            totals[what] += number
    for what, number in totals.items():
        root.set(what, str(number))
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _copy_screenshots(run: Run, data: dict[str, Any], folder: Path) -> dict[str, str]:
    """Copy the screenshots of RUN to FOLDER/screenshots and name them so in DATA, the content of report.json.

    Returns the images as data URIs, by that name.
    """
    inlined: dict[str, str] = {}
    home = folder / "screenshots"
    for phase, kept in zip(run.phases, data["phases"], strict=True):
        for number, shot in enumerate(phase.screenshots):
            source = Path(shot.path)
            name = f"screenshots/{phase.name}-{number:02d}{source.suffix}"
            kept["screenshots"][number]["path"] = name
            if source.suffix in _MIME and source.is_file():
                content = source.read_bytes()
                home.mkdir(exist_ok=True)
                write_atomic(folder / name, content)
                inlined[name] = f"data:{_MIME[source.suffix]};base64,{base64.b64encode(content).decode()}"
    for old in home.glob("[!.]*"):  # one with a dot is being written by another run
        if f"screenshots/{old.name}" not in inlined:
            old.unlink(missing_ok=True)
    return inlined


def time_line_marks(seconds: float) -> list[tuple[float, str]]:
    """At most seven marks at round times for a time line of SECONDS.

    Each is its position in percent and its label.
    """
    step = next((step for step in (10, 30, 60, 120, 300, 600, 1200, 3600) if seconds <= 6 * step), 7200)
    unit, name = (60, "min") if step >= 60 else (1, "s")
    marks = range(0, int(seconds) + 1, step)
    if seconds < 1:
        return []
    return [
        (100 * at / seconds, f"{at // unit} {name}" if at == marks[-1] else f"{at // unit}") for at in marks
    ]


def _bars(run: Run, total: float) -> list[tuple[PhaseResult, float, float]]:
    """Each phase with its bar on the time line of TOTAL seconds: begin and width, both in percent."""
    percent = 100 / total if total else 0
    bars, before = [], 0.0
    for phase in run.phases:
        bars.append((phase, percent * before, percent * phase.seconds))
        before += phase.seconds
    return bars


def _phases_not_run(run: Run) -> list[tuple[PhaseResult, list[Check]]]:
    """The phases of which something was not run, each with the checks that were not."""
    found = []
    for phase in run.phases:
        checks = [check for check in phase.checks if check.ok is None]
        if checks or phase.verdict is Verdict.NOT_RUN:
            found.append((phase, checks))
    return found


def render_page(
    run: Run, data: dict[str, Any], pictures: dict[str, str], stand_ins: dict[str, StandIn]
) -> str:
    """The page index.html. Everything is in it: nothing is loaded from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": format_duration,
        "count": format_count,
        "clean": clean_text,
        "word": verdict_word,
        "when": format_time_stamp,
        "plain": plain_detail,
    }
    title, meaning = headline(run)
    total = sum(p.seconds for p in run.phases)
    carried = [p for p in run.phases if p.carried]
    verdicts = [check.verdict for phase in run.phases for check in phase.checks]
    not_run = _phases_not_run(run)
    return environment.get_template("report.html.j2").render(
        run=run,
        data=data,
        title=title,
        meaning=meaning,
        words={str(key): word for key, word in WORDS.items()},
        bars=_bars(run, total),
        pictures=pictures,
        stand_ins=[stand_ins[one] for one in run.about.stand_ins],
        carried=carried,
        boots=sum(p.boots for p in run.phases),
        ticks=time_line_marks(total),
        marks={str(key): mark for key, mark in MARKS.items()},
        tally=[(str(one), verdicts.count(one)) for one in WORDS],
        not_run=not_run,
        not_run_count=sum(len(checks) or 1 for _, checks in not_run),
    )


def write_report(run: Run, folder: Path, stand_ins: dict[str, StandIn] | None = None) -> Path:
    """Write index.html, report.json and junit.xml to FOLDER, each whole or not at all; the page's path.

    Raises ValueError when the run names a stand-in that is not declared.
    """
    stand_ins = load_stand_ins() if stand_ins is None else stand_ins
    unknown = [one for one in run.about.stand_ins if one not in stand_ins]
    if unknown:
        raise ValueError(f"stand-ins that are not declared: {', '.join(unknown)}")
    folder.mkdir(parents=True, exist_ok=True)
    data = run.as_dict()
    pictures = _copy_screenshots(run, data, folder)
    write_atomic(folder / "junit.xml", junit_xml(run))
    write_atomic(
        folder / "report.json", json.dumps(data, indent=1, ensure_ascii=False).encode(errors="replace")
    )
    write_atomic(folder / "index.html", render_page(run, data, pictures, stand_ins).encode(errors="replace"))
    return folder / "index.html"


def remove_report(folder: Path) -> None:
    """Remove an earlier run's report, so that nobody takes it for this one's."""
    for name in ("index.html", "report.json", "junit.xml"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "screenshots", ignore_errors=True)
