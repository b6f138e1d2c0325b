"""What a rehearsal can end in, and the records that carry it to the report.

Four verdicts, of which only PASS is green: OS_FAULT says that the product is wrong, LAB_FAULT that there is
positive evidence that the rehearsal is (QEMU died, the host's disk is full), NOT_RUN that something was not
shown at all. A guest that goes silent while QEMU lives is an OS_FAULT.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
SCHEMA = 1


class Verdict(StrEnum):
    """A verdict, in order from best to worst."""

    PASS = "PASS"
    NOT_RUN = "NOT_RUN"
    LAB_FAULT = "LAB_FAULT"
    OS_FAULT = "OS_FAULT"


EXIT = {Verdict.PASS: 0, Verdict.OS_FAULT: 1, Verdict.LAB_FAULT: 3, Verdict.NOT_RUN: 4}


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of VERDICTS. Of nothing it is NOT_RUN: where nothing ran, nothing passed."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.NOT_RUN)


class Fault(Exception):
    """An end other than PASS; its text is one line for the person who reads the report."""

    verdict = Verdict.LAB_FAULT


class OSFault(Fault):
    """The product did not do what it promises."""

    verdict = Verdict.OS_FAULT


class LabFault(Fault):
    """There is positive evidence that the rehearsal itself is wrong; says nothing about the product."""

    verdict = Verdict.LAB_FAULT


class NotRun(Fault):
    """It cannot be shown here; the text says what is missing."""

    verdict = Verdict.NOT_RUN


class UsageError(Exception):
    """The command was given something that doesn't exist (a scenario, a phase, a checkpoint); exit code 2."""


@dataclass
class Check:
    """One thing that was looked at. `ok` is None where it could not be looked at."""

    title: str
    ok: bool | None
    detail: str
    verdict: Verdict


class Checks:
    """Takes down what a phase looks at. A check that fails ends the phase at once unless `go_on` is given."""

    def __init__(self) -> None:
        self.done: list[Check] = []

    def equal(self, title: str, got: Any, want: Any, *, go_on: bool = False) -> bool:
        """Hold GOT against WANT; both are shown when they differ."""
        ok = got == want
        return self._record(title, ok, f"{got!r}" if ok else f"got {got!r}, want {want!r}", OSFault, go_on)

    def true(self, title: str, condition: object, detail: object = "", *, go_on: bool = False) -> bool:
        """Hold that CONDITION is true; DETAIL says what was seen, and is shown either way."""
        return self._record(title, bool(condition), detail, OSFault, go_on)

    def lab(self, title: str, condition: object, detail: object = "") -> bool:
        """Hold that the rehearsal is as it should be; where it isn't, that is a LabFault."""
        return self._record(title, bool(condition), detail, LabFault, False)

    def not_run(self, title: str, reason: str) -> None:
        """Record that this could not be looked at, and why. The phase goes on, and is NOT_RUN at best."""
        self.done.append(Check(title, None, reason, Verdict.NOT_RUN))

    def verdict(self) -> Verdict:
        """The worst of what was taken down; NOT_RUN without a single check."""
        return worst_verdict(check.verdict for check in self.done)

    def _record(self, title: str, ok: bool, detail: object, fault: type[Fault], go_on: bool) -> bool:
        detail = detail if isinstance(detail, str) else repr(detail)
        self.done.append(Check(title, ok, detail, Verdict.PASS if ok else fault.verdict))
        if not ok and not go_on:
            raise fault(f"{title}: {detail}" if detail else title)
        return ok


def verdict_of(error: BaseException) -> tuple[Verdict, str]:
    """A fault's own verdict and words; any other exception is the host's doing or a mistake in the lab."""
    if isinstance(error, Fault):
        return error.verdict, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Verdict.NOT_RUN, "stopped by the person who ran it"
    if isinstance(error, OSError):  # a full disk, a folder that is gone
        return Verdict.LAB_FAULT, f"this host refused something the rehearsal needs: {error}"
    return Verdict.LAB_FAULT, f"a mistake in the rehearsal's own code: {type(error).__name__}: {error}"


def phase_verdict(checks: list[Check], error: Exception | None) -> tuple[Verdict, str]:
    """A phase's verdict and its reason in one line."""
    found = [
        (check.verdict, f"{check.title}: {check.detail}" if check.detail else check.title)
        for check in checks
        if check.verdict is not Verdict.PASS
    ]
    if error:
        found.append(verdict_of(error))
    if not found:
        return (Verdict.PASS, "") if checks else (Verdict.NOT_RUN, "it made no check, so it showed nothing")
    worst = worst_verdict(verdict for verdict, _ in found)
    return worst, next(reason for verdict, reason in found if verdict is worst)


@dataclass
class Screenshot:
    """A picture of the guest's screen: an image file and what it shows."""

    path: str
    caption: str


@dataclass
class PhaseResult:
    """What one phase came to. Seconds are wall-clock and include a second try; `log` is for tracebacks."""

    name: str
    title: str
    verdict: Verdict = Verdict.NOT_RUN
    seconds: float = 0.0
    boots: int = 0
    retried: str = ""  # the LAB_FAULT of the first try, or nothing
    carried: str = ""  # when this was shown, if by an earlier run with the same inputs
    checks: list[Check] = field(default_factory=list)
    screenshots: list[Screenshot] = field(default_factory=list)
    console: str = ""
    log: str = ""
    reason: str = ""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PhaseResult:
        """A result read back from JSON; TypeError or ValueError when it has not our shape."""
        result = cls(**data)
        result.verdict = Verdict(result.verdict)
        result.checks = [Check(**{**check, "verdict": Verdict(check["verdict"])}) for check in data["checks"]]
        result.screenshots = [Screenshot(**shot) for shot in data["screenshots"]]
        return result


@dataclass
class About:
    """What a rehearsal ran on. `host` holds accel, qemu (version) and cores; `set_up` steps before the first
    phase.

    `source`: the staged tree's digest and what each result stands on, as the product's makers say it; empty
    when the sources changed meanwhile. `noticed`: whether the sabotage was noticed as it should be.
    `not_applied`: what of overlay/ has no effect on this base, each with `path` and `why`.
    """

    base: str
    host: dict[str, Any]
    stand_ins: list[str]
    sabotage: str | None = None
    set_up: list[tuple[str, float]] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    noticed: bool | None = None
    not_applied: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Run:
    """A whole rehearsal. `seconds` counts from the first phase on; `fault` is what kept it from starting, if
    anything.
    """

    scenario: str
    title: str
    story: str
    started: str
    about: About
    phases: list[PhaseResult]
    seconds: float = 0.0
    interrupted: bool = False
    fault: Verdict = Verdict.PASS
    reason: str = ""
    log: str = ""
    timings: list[tuple[str, float]] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst of the phases and of the run's own fault."""
        return worst_verdict([worst_verdict(phase.verdict for phase in self.phases), self.fault])

    @property
    def exit_code(self) -> int:
        """What the command ends with: 0 for PASS only."""
        return EXIT_INTERRUPTED if self.interrupted else EXIT[self.verdict]

    def where_time_goes(self) -> list[dict[str, Any]]:
        """Set-up steps, phases, and the kinds of work that the machine noted within them, each with seconds
        and times.
        """
        rows = [
            {"what": title, "kind": "set-up", "seconds": round(spent, 1), "times": 1}
            for title, spent in self.about.set_up
        ]
        rows += [
            {"what": p.title, "kind": "phase", "seconds": round(p.seconds, 1), "times": 1}
            for p in self.phases
            if p.seconds
        ]
        work: dict[str, list[float]] = {}
        for label, spent in self.timings:
            work.setdefault(label, []).append(spent)
        ordered = sorted(work.items(), key=lambda item: -sum(item[1]))
        rows += [
            {"what": label, "kind": "work", "seconds": round(sum(all_), 1), "times": len(all_)}
            for label, all_ in ordered
        ]
        rest = self.seconds - sum(spent for _, spent in self.timings)
        if work and rest > 0:
            rows.append({"what": "everything else", "kind": "work", "seconds": round(rest, 1), "times": 1})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            "schema": SCHEMA,
            "scenario": self.scenario,
            "title": self.title,
            "verdict": str(self.verdict),
            "exit_code": self.exit_code,
            "interrupted": self.interrupted,
            "reason": self.reason,
            "log": self.log,
            "seconds": round(self.seconds, 1),
            "started": self.started,
            "host": dict(self.about.host),
            "base": self.about.base,
            "sabotage": self.about.sabotage,
            "stand_ins": list(self.about.stand_ins),
            "source": self.about.source,
            "noticed": self.about.noticed,
            "not_applied": list(self.about.not_applied),
            "phases": [
                {
                    **asdict(p),
                    "seconds": round(p.seconds, 1),
                    "retried": bool(p.retried),
                    "first_try": p.retried,
                }
                for p in self.phases
            ],
            "where_time_goes": self.where_time_goes(),
        }
