"""The runner that takes a machine through the phases of a scenario.

After each phase that ran to its end the world saves a checkpoint, keyed by everything that went in, so that a
later run can start there and a LAB_FAULT can be tried once more from the same state.
"""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from veilor.lab.checkpoint import Checkpoints
from veilor.lab.progress import PhaseProgress
from veilor.lab.report import clean_console
from veilor.lab.result import About, PhaseResult, Run, Screenshot
from veilor.lab.scenario import Phase, Scenario, checkpoint_keys, predecessor_of
from veilor.lab.verdict import Checks, Fault, LabFault, UsageError, Verdict, phase_verdict, verdict_of

ConsoleLog = Path | bytes | bytearray  # a file, or in tests what would be in it


class WorldLike(Protocol):
    """What the runner needs of a World. Counters and lists only ever grow; `timings` may be missing."""

    boots: int
    screenshots: list[tuple[Path, str]]

    @property
    def console_log(self) -> ConsoleLog: ...
    def save_checkpoint(self, name: str, key: str) -> None: ...
    def restore_checkpoint(self, name: str, key: str) -> None: ...
    def reset(self) -> None: ...
    def take_screenshot(self, name: str, caption: str) -> None: ...
    def stop(self) -> None: ...


class Stopped(KeyboardInterrupt):
    """Somebody asked the rehearsal to end: Ctrl-C, kill, or a closed terminal."""


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], None]]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into Stopped and ignore the rest.

    Yields a function that makes the process ignore them all from now on.
    """
    kinds = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        kinds.append(signal.SIGHUP)

    def ignore_signals(*_: object) -> None:
        for kind in kinds:
            signal.signal(kind, signal.SIG_IGN)

    def stop(number: int, _: object) -> None:
        ignore_signals()
        raise Stopped(signal.Signals(number).name)

    before = {kind: signal.signal(kind, stop) for kind in kinds}
    try:
        yield ignore_signals
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def run_scenario(
    scenario: Scenario,
    world: WorldLike,
    *,
    inputs: Mapping[str, Any],
    about: About,
    start: str | None = None,
    resume: str | None = None,
    records: Checkpoints | None = None,
    keep_records: bool = True,
    report: Callable[[Run], object] | None = None,
    progress: PhaseProgress | None = None,
) -> Run:
    """Take WORLD through SCENARIO, from phase START if given; what came of it.

    Without START it takes over what earlier runs have shown of the phases before RESUME, or of the scenario
    that this one goes on from. INPUTS go into every checkpoint's key. RECORDS keeps what each phase showed,
    so that a run from a later phase can carry it over; without KEEP_RECORDS it is only read. REPORT is called
    before the first phase, after each and at the end. Faults end up in the Run; UsageError is raised for an
    unknown START or one without a checkpoint. Call it from the main thread.
    """
    runner = _Runner(
        scenario,
        world,
        inputs,
        about,
        records,
        keep_records,
        report or (lambda run: None),
        progress or PhaseProgress(len(scenario.phases)),
    )
    return runner.run_phases(start, resume)


def failed_set_up(scenario: Scenario, error: BaseException, about: About) -> Run:
    """The Run of a rehearsal whose set-up raised ERROR: no phase was run, and the verdict is the error's."""
    run = _new_run(scenario, about)
    run.fault, run.reason = verdict_of(error)
    run.interrupted = isinstance(error, KeyboardInterrupt)
    if not isinstance(error, (Fault, KeyboardInterrupt)):
        run.log = "".join(traceback.format_exception(error))
    for result in run.phases:
        result.reason = "the set-up did not get this far"
    return run


def _new_run(scenario: Scenario, about: About) -> Run:
    results = [PhaseResult(phase.name, phase.title, reason="not reached") for phase in scenario.phases]
    return Run(scenario.name, scenario.title, scenario.story, _now(), about, results)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Runner:
    """Runs the phases in order and records what came of each.

    `ended` are the phases that came to their end, here or in an earlier run: they have a checkpoint. `broken`
    are those that were begun and did not. `current` is the phase at whose end the machine stands.
    """

    def __init__(
        self,
        scenario: Scenario,
        world: WorldLike,
        inputs: Mapping[str, Any],
        about: About,
        records: Checkpoints | None,
        keep_records: bool,
        report: Callable[[Run], object],
        progress: PhaseProgress,
    ) -> None:
        self.scenario, self.world = scenario, world
        self.records, self.keep_records = records, keep_records
        self.report, self.progress = report, progress
        self.keys = checkpoint_keys(scenario, inputs)
        self.run = _new_run(scenario, about)
        self.ended: set[str] = set()
        self.broken: list[Phase] = []
        self.current: str | None = None
        self.began = time.monotonic()

    def run_phases(self, start: str | None, resume: str | None) -> Run:
        """As `run_scenario`."""
        with stop_on_signals() as ignore_signals:
            try:
                first = self._carry_over(start) if start else self._resume(resume)
                self._write_report()
                for index in range(first, len(self.scenario.phases)):
                    self._run_phase(index)
                    self._write_report()
            except KeyboardInterrupt:
                self.run.interrupted = True
                self.run.reason = "stopped before its end by the person who ran it"
                self.progress.print_line("stopping the machine …")
            except Fault as fault:
                self._record_fault(fault)
            finally:
                ignore_signals()
                self.progress.close()
                try:
                    self.world.stop()
                except Exception as error:
                    self._record_fault(error)
            self._write_report()
        return self.run

    def _record_fault(self, error: Exception) -> None:
        """Record an ERROR that belongs to no phase."""
        self.run.fault, self.run.reason = verdict_of(error)
        self.run.log += "".join(traceback.format_exception(error))

    def _write_report(self) -> None:
        self.run.seconds = time.monotonic() - self.began
        self.run.timings = list(getattr(self.world, "timings", []))
        self.report(self.run)

    # -- what earlier runs have shown

    def _resume(self, resume: str | None) -> int:
        """Carry over as much as earlier runs have shown of what comes before RESUME.

        Returns the index of the first phase to run.
        """
        last = self.scenario.position_of(resume) if resume else self.scenario.inherited
        for index in range(last, 0, -1):
            try:
                return self._carry_over(self.scenario.phases[index].name)
            except UsageError:
                continue
        return 0

    def _carry_over(self, start: str) -> int:
        """Carry over from earlier runs what the phases before START showed; START's index.

        Raises UsageError when there is no checkpoint to start from.
        """
        first = self.scenario.position_of(start)
        before = predecessor_of(self.scenario, first)
        if before:
            self._restore(
                before,
                f"can't start from {start}: no earlier run with the same inputs got through "
                f"{before.name}; run {self.scenario.name} from its beginning",
            )
        for index in range(first):
            phase = self.scenario.phases[index]
            kept = self._read_record(phase)
            if kept:
                self.run.phases[index] = kept
                self.ended.add(phase.name)
            else:
                left_out = f"left out by --from {start}, and no earlier run with the same inputs showed it"
                self.run.phases[index].reason = left_out
        if before:
            self.ended.add(before.name)
        return first

    def _restore(self, predecessor: Phase, problem: str) -> None:
        """Restore the checkpoint of PREDECESSOR. Raises UsageError that says PROBLEM when there is none."""
        try:
            self.world.restore_checkpoint(predecessor.checkpoint_name, self.keys[predecessor.name])
        except (UsageError, KeyError):
            raise UsageError(problem) from None
        self.current = predecessor.name

    def _read_record(self, phase: Phase) -> PhaseResult | None:
        """What an earlier run with the same inputs recorded of PHASE; None without a readable record."""
        if not self.records:
            return None
        entry = self.records.find(f"{phase.checkpoint_name}.shown", self.keys[phase.name])
        if entry is None:
            return None
        meta = self.records.meta(entry)
        try:
            result = PhaseResult.from_dict(meta["result"])
        except (TypeError, ValueError, KeyError):
            return None
        for shot in result.screenshots:
            shot.path = str(entry / shot.path)
        result.carried, result.seconds, result.boots = result.carried or meta["shown"], 0.0, 0
        return result

    def _keep_record(self, phase: Phase, result: PhaseResult) -> None:
        """Record RESULT of PHASE with its screenshots for later runs, if records are kept."""
        if not self.records or not self.keep_records:
            return
        files, screenshots = {}, []
        for number, shot in enumerate(result.screenshots):
            name = f"{number:02d}{Path(shot.path).suffix}"
            files[name] = Path(shot.path)
            screenshots.append({"path": name, "caption": shot.caption})
        kept = {**asdict(result), "screenshots": screenshots}
        self.records.save(
            f"{phase.checkpoint_name}.shown",
            self.keys[phase.name],
            files,
            {"result": json.loads(json.dumps(kept)), "shown": self.run.started},
        )

    # -- one phase

    def _run_phase(self, index: int) -> None:
        """Run one phase, a second time if the lab failed it, and record what came of it."""
        phase, result = self.scenario.phases[index], self.run.phases[index]
        predecessor = predecessor_of(self.scenario, index)
        unmet = self._unmet_phase(phase, predecessor)
        if unmet:
            result.reason = f"“{unmet.title}” did not come to its end, and this builds on it"
            self.progress.done(index, result)
            return
        result.reason = "still running when this was written"
        self.progress.start(index, phase.title)
        began, boots, shots = time.monotonic(), self.world.boots, len(self.world.screenshots)
        console = _console_length(self.world.console_log)
        try:
            fault = self._try_phase(phase, predecessor, result, again=False)
            if isinstance(fault, Exception) and result.verdict is Verdict.LAB_FAULT:
                result.retried = result.reason
                self.progress.print_line(
                    f"the lab failed this phase ({result.reason}); once more from its checkpoint"
                )
                self._try_phase(phase, predecessor, result, again=True)
        except KeyboardInterrupt:
            result.verdict = Verdict.NOT_RUN
            result.reason = "stopped by the person who ran it before it came to its end"
            raise
        finally:
            result.seconds = time.monotonic() - began
            result.boots = self.world.boots - boots
            result.screenshots = [
                Screenshot(str(path), caption) for path, caption in self.world.screenshots[shots:]
            ]
            result.console = clean_console(_console_from(self.world.console_log, console))
            self.progress.done(index, result)
        if phase.name in self.ended:
            self._keep_record(phase, result)
        else:
            self.broken.append(phase)

    def _unmet_phase(self, phase: Phase, predecessor: Phase | None) -> Phase | None:
        """A phase that PHASE builds on and that did not come to its end; None when PHASE can run."""
        if self.broken and not phase.independent:
            return self.broken[-1]
        if predecessor and predecessor.name not in self.ended:
            return predecessor
        return None

    def _try_phase(
        self, phase: Phase, predecessor: Phase | None, result: PhaseResult, *, again: bool
    ) -> Exception | None:
        """Run PHASE once. The exception that ended it, or None; RESULT says the same for the report."""
        checks = Checks()
        error: Exception | None = None
        try:
            self._put_machine_at_start(predecessor, again)
            phase.run(self.world, checks)
            # nothing may start from a state known to be wrong
            if phase_verdict(checks.done, None)[0] is not Verdict.OS_FAULT:
                self.world.save_checkpoint(phase.checkpoint_name, self.keys[phase.name])
                self.ended.add(phase.name)
                self.current = phase.name
        except Exception as caught:
            error, self.current = caught, None
            with suppress(Exception):  # the machine may be off
                self.world.take_screenshot("went-wrong", "The screen when it went wrong")
        finally:
            result.checks = checks.done
        result.verdict, result.reason = phase_verdict(checks.done, error)
        if error and not isinstance(error, Fault):
            result.log += "".join(traceback.format_exception(error))
        return error

    def _put_machine_at_start(self, predecessor: Phase | None, again: bool) -> None:
        """Put the machine where a phase begins: at the end of PREDECESSOR, or on an empty disk without one.

        The running machine goes on where it already stands there, unless the phase is tried AGAIN.
        """
        if not again and self.current == (predecessor.name if predecessor else None):
            return
        self.world.stop()
        if predecessor is None:
            self.world.reset()
            return
        try:
            self._restore(predecessor, f"the checkpoint of {predecessor.name} is gone")
        except UsageError as gone:
            raise LabFault(str(gone)) from None


def _console_length(log: ConsoleLog) -> int:
    if isinstance(log, Path):
        return log.stat().st_size if log.exists() else 0
    return len(log)


def _console_from(log: ConsoleLog, offset: int) -> bytes:
    if not isinstance(log, Path):
        return bytes(log[offset:])
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(offset)
        return file.read()
