"""The records that carry what a rehearsal showed to its report, and to later runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from veilor.lab.verdict import EXIT, EXIT_INTERRUPTED, Check, Verdict, worst_verdict

SCHEMA = 1  # of report.json; its shape stands in report.schema.json


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

    def as_dict(self) -> dict[str, Any]:
        """This phase's entry in report.json."""
        return {
            **asdict(self),
            "seconds": round(self.seconds, 1),
            "retried": bool(self.retried),
            "first_try": self.retried,
        }


@dataclass(frozen=True)
class Host:
    """What a rehearsal ran on: QEMU's accelerator (kvm or tcg) and version, and the host's processors."""

    accel: str
    qemu: str
    cores: int


@dataclass(frozen=True)
class SourceState:
    """The sources that a rehearsal was made with, as the product's makers say it.

    `tree` is the digest of the staged tree; `proofs` has the hash of what each result stands on, by its name.
    """

    tree: str
    proofs: dict[str, str]


@dataclass(frozen=True)
class NotApplied:
    """A file of overlay/ that has no effect on the base that is rehearsed, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Timing:
    """Seconds that were spent on a piece of work."""

    what: str
    seconds: float


@dataclass(frozen=True)
class TimeRow:
    """A row of “Where the time went”: KIND is set-up, phase or work; SECONDS are the sum of all TIMES."""

    what: str
    kind: str
    seconds: float
    times: int


@dataclass
class About:
    """What a rehearsal ran with.

    `stand_ins` are ids of stand_ins.toml; `set_up` the steps before the first phase. `source` is None when
    the sources changed meanwhile. `noticed`: whether the sabotage was noticed as it should be.
    """

    base: str
    host: Host
    stand_ins: list[str]
    sabotage: str | None = None
    set_up: list[Timing] = field(default_factory=list)
    source: SourceState | None = None
    noticed: bool | None = None
    not_applied: list[NotApplied] = field(default_factory=list)


@dataclass
class Run:
    """A whole rehearsal.

    `seconds` counts from the first phase on; `fault` is the verdict of what kept it from starting, if
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
    timings: list[Timing] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst of the phases and of the run's own fault."""
        return worst_verdict([worst_verdict(phase.verdict for phase in self.phases), self.fault])

    @property
    def exit_code(self) -> int:
        """What the command ends with: 0 for PASS only."""
        return EXIT_INTERRUPTED if self.interrupted else EXIT[self.verdict]

    def where_time_goes(self) -> list[TimeRow]:
        """Set-up steps, phases, and the kinds of work that the machine noted within them."""
        rows = [TimeRow(step.what, "set-up", round(step.seconds, 1), 1) for step in self.about.set_up]
        for phase in self.phases:
            if phase.seconds:
                rows.append(TimeRow(phase.title, "phase", round(phase.seconds, 1), 1))
        work: dict[str, list[float]] = {}
        for timing in self.timings:
            work.setdefault(timing.what, []).append(timing.seconds)
        for what, spent in sorted(work.items(), key=lambda item: -sum(item[1])):
            rows.append(TimeRow(what, "work", round(sum(spent), 1), len(spent)))
        rest = self.seconds - sum(timing.seconds for timing in self.timings)
        if work and rest > 0:
            rows.append(TimeRow("everything else", "work", round(rest, 1), 1))
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
            "host": asdict(self.about.host),
            "base": self.about.base,
            "sabotage": self.about.sabotage,
            "stand_ins": list(self.about.stand_ins),
            "source": asdict(self.about.source) if self.about.source else {},
            "noticed": self.about.noticed,
            "not_applied": [asdict(entry) for entry in self.about.not_applied],
            "phases": [phase.as_dict() for phase in self.phases],
            "where_time_goes": [asdict(row) for row in self.where_time_goes()],
        }
