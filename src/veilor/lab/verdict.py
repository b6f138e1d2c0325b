"""What a rehearsal can end in, and the checks that decide it.

Four verdicts, of which only PASS is green: OS_FAULT says that the product is wrong, LAB_FAULT that there is
positive evidence that the rehearsal is (QEMU died, the host's disk is full), NOT_RUN that something was not
shown at all. A guest that goes silent while QEMU lives is an OS_FAULT.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


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

    verdict: Verdict = Verdict.LAB_FAULT


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
    """One thing that was checked. `ok` is None where it could not be checked."""

    title: str
    ok: bool | None
    detail: str
    verdict: Verdict


class Checks:
    """The checks that a phase makes. One that fails ends the phase at once unless `go_on` is given."""

    def __init__(self) -> None:
        self.done: list[Check] = []

    def equal(self, title: str, got: Any, want: Any, *, go_on: bool = False) -> bool:
        """Check that GOT equals WANT; both are shown when they differ. Raises OSFault unless GO_ON."""
        ok = got == want
        return self._record(title, ok, f"{got!r}" if ok else f"got {got!r}, want {want!r}", OSFault, go_on)

    def true(self, title: str, condition: object, detail: object = "", *, go_on: bool = False) -> bool:
        """Check that CONDITION is true; DETAIL, shown either way, says what was seen.

        Raises OSFault unless GO_ON.
        """
        return self._record(title, bool(condition), detail, OSFault, go_on)

    def lab(self, title: str, condition: object, detail: object = "") -> bool:
        """Check that the rehearsal itself is as it should be. Raises LabFault where it isn't."""
        return self._record(title, bool(condition), detail, LabFault, False)

    def not_run(self, title: str, reason: str) -> None:
        """Record that this could not be checked, and why. The phase goes on, and is NOT_RUN at best."""
        self.done.append(Check(title, None, reason, Verdict.NOT_RUN))

    def verdict(self) -> Verdict:
        """The worst of what was recorded; NOT_RUN without a single check."""
        return worst_verdict(check.verdict for check in self.done)

    def _record(self, title: str, ok: bool, detail: object, fault: type[Fault], go_on: bool) -> bool:
        detail = detail if isinstance(detail, str) else repr(detail)
        self.done.append(Check(title, ok, detail, Verdict.PASS if ok else fault.verdict))
        if not ok and not go_on:
            raise fault(_reason(title, detail))
        return ok


def verdict_of(error: BaseException) -> tuple[Verdict, str]:
    """The verdict and the reason, in one line, of a run that ERROR ended.

    A fault has its own; any other exception is the host's doing or a mistake in the lab.
    """
    if isinstance(error, Fault):
        return error.verdict, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Verdict.NOT_RUN, "stopped by the person who ran it"
    if isinstance(error, OSError):  # a full disk, a folder that is gone
        return Verdict.LAB_FAULT, f"this host refused something the rehearsal needs: {error}"
    return Verdict.LAB_FAULT, f"a mistake in the rehearsal's own code: {type(error).__name__}: {error}"


def phase_verdict(checks: list[Check], error: Exception | None) -> tuple[Verdict, str]:
    """The verdict of a phase that made CHECKS and that ERROR ended, if any, and its reason in one line."""
    found: list[tuple[Verdict, str]] = []
    for check in checks:
        if check.verdict is not Verdict.PASS:
            found.append((check.verdict, _reason(check.title, check.detail)))
    if error:
        found.append(verdict_of(error))
    if not checks and not error:
        return Verdict.NOT_RUN, "it made no check, so it showed nothing"
    if not found:
        return Verdict.PASS, ""
    worst = worst_verdict(verdict for verdict, _ in found)
    return worst, next(reason for verdict, reason in found if verdict is worst)


def _reason(title: str, detail: str) -> str:
    return f"{title}: {detail}" if detail else title
