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
from veilor.lab.scenario import Phase, Scenario, checkpoint_keys, predecessor_of
from veilor.lab.verdict import (
    About,
    Checks,
    Fault,
    LabFault,
    PhaseResult,
    Run,
    Screenshot,
    UsageError,
    Verdict,
    phase_verdict,
    verdict_of,
)


class WorldLike(Protocol):
    """What the runner needs of a World. Counters and lists only ever grow; `timings` may be missing."""

    boots: int
    screenshots: list[tuple[Path, str]]
    console_log: Path | bytes | bytearray

    def save_checkpoint(self, name: str, key: str) -> None: ...
    def restore_checkpoint(self, name: str, key: str) -> None: ...
    def reset(self) -> None: ...
    def stop(self) -> None: ...


class Stopped(KeyboardInterrupt):
    """Somebody asked the rehearsal to end: Ctrl-C, kill, or a closed terminal."""


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], None]]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into Stopped and ignore the rest; yields what makes us deaf to
    all.
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
    report: Callable[[Run], None] | None = None,
    progress: PhaseProgress | None = None,
) -> Run:
    """Take LIFE through SCENARIO, from phase START if given; what came of it.

    Without START it takes over what earlier runs have shown of the phases before RESUME, or of the scenario
    that this one goes on from. INPUTS go into every checkpoint's key. RECORDS keeps what each phase showed,
    so that a run from a later phase can carry it over; with REMEMBER off it is only read. REPORT is called
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
    run.log = (
        "" if isinstance(error, (Fault, KeyboardInterrupt)) else "".join(traceback.format_exception(error))
    )
    for result in run.phases:
        result.reason = "the set-up did not get this far"
    return run


def _new_run(scenario: Scenario, about: About) -> Run:
    results = [PhaseResult(one.name, one.title, reason="not reached") for one in scenario.phases]
    return Run(scenario.name, scenario.title, scenario.story, _now(), about, results)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Runner:
    def __init__(self, scenario, world, inputs, about, records, keep_records, report, progress) -> None:
        self.scenario, self.world, self.records, self.report, self.progress = (
            scenario,
            world,
            records,
            report,
            progress,
        )
        self.keep_records = keep_records
        self.keys = checkpoint_keys(scenario, inputs)
        self.run = _new_run(scenario, about)
        self.ended: set[str] = (
            set()
        )  # phases that came to their end, here or in an earlier run: they have a checkpoint
        self.broken: list[Phase] = []  # phases that were begun and did not
        self.current: str | None = None  # the phase whose end the machine stands at
        self.began = time.monotonic()

    def run_phases(self, start: str | None, resume: str | None) -> Run:
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
        """Take down a fault that belongs to no phase."""
        self.run.fault, self.run.reason = verdict_of(error)
        self.run.log += "".join(traceback.format_exception(error))

    def _write_report(self) -> None:
        self.run.seconds = time.monotonic() - self.began
        self.run.timings = list(getattr(self.world, "timings", []))
        self.report(self.run)

    def _resume(self, resume: str | None) -> int:
        """Take over as much as earlier runs have shown of what comes before; the place to begin."""
        for index in range(self.scenario.position_of(resume) if resume else self.scenario.inherited, 0, -1):
            try:
                return self._carry_over(self.scenario.phases[index].name)
            except UsageError:
                continue
        return 0

    def _carry_over(self, start: str) -> int:
        """Take what the phases before START showed from earlier runs; START's place in the order."""
        first = self.scenario.position_of(start)
        before = predecessor_of(self.scenario, first)
        if before:
            self._restore(
                before,
                f"can't start from {start}: no earlier run with the same inputs got through "
                f"{before.name}; run {self.scenario.name} from its beginning",
            )
        for index in range(first):
            one = self.scenario.phases[index]
            kept = self._read_record(one)
            if kept:
                self.run.phases[index] = kept
                self.ended.add(one.name)
            else:
                self.run.phases[
                    index
                ].reason = f"left out by --from {start}, and no earlier run with the same inputs showed it"
        if before:
            self.ended.add(before.name)
        return first

    def _restore(self, origin: Phase, complaint: str) -> None:
        try:
            self.world.restore_checkpoint(origin.checkpoint_name, self.keys[origin.name])
        except (UsageError, KeyError):
            raise UsageError(complaint) from None
        self.current = origin.name

    def _read_record(self, one: Phase) -> PhaseResult | None:
        entry = (
            self.records.find(f"{one.checkpoint_name}.shown", self.keys[one.name]) if self.records else None
        )
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

    def _keep_record(self, one: Phase, result: PhaseResult) -> None:
        if not self.records or not self.keep_records:
            return
        shots = {
            f"{number:02d}{Path(shot.path).suffix}": Path(shot.path)
            for number, shot in enumerate(result.screenshots)
        }
        kept = {
            **asdict(result),
            "screenshots": [
                {"path": name, "caption": shot.caption}
                for name, shot in zip(shots, result.screenshots, strict=True)
            ],
        }
        self.records.save(
            f"{one.checkpoint_name}.shown",
            self.keys[one.name],
            shots,
            {"result": json.loads(json.dumps(kept)), "shown": self.run.started},
        )

    def _run_phase(self, index: int) -> None:
        """Run one phase, a second time if the lab failed it, and take down what came of it."""
        one, result = self.scenario.phases[index], self.run.phases[index]
        origin = predecessor_of(self.scenario, index)
        unmet = [origin] if origin and origin.name not in self.ended else []
        unmet += [] if one.independent else self.broken
        if unmet:
            result.reason = f"“{unmet[-1].title}” did not come to its end, and this builds on it"
            self.progress.done(index, result)
            return
        result.reason = "still running when this was written"
        self.progress.start(index, one.title)
        began, boots, shots = time.monotonic(), self.world.boots, len(self.world.screenshots)
        console = _console_length(self.world.console_log)
        try:
            fault = self._try_phase(one, origin, result, again=False)
            if isinstance(fault, Exception) and result.verdict is Verdict.LAB_FAULT:
                result.retried = result.reason
                self.progress.print_line(
                    f"the lab failed this phase ({result.reason}); once more from its checkpoint"
                )
                self._try_phase(one, origin, result, again=True)
        except KeyboardInterrupt:
            result.verdict, result.reason = (
                Verdict.NOT_RUN,
                "stopped by the person who ran it before it came to its end",
            )
            raise
        finally:
            result.seconds = time.monotonic() - began
            result.boots = self.world.boots - boots
            result.screenshots = [
                Screenshot(str(path), caption) for path, caption in self.world.screenshots[shots:]
            ]
            result.console = clean_console(_console_from(self.world.console_log, console))
            self.progress.done(index, result)
        if one.name in self.ended:
            self._keep_record(one, result)
        else:
            self.broken.append(one)

    def _try_phase(
        self, one: Phase, origin: Phase | None, result: PhaseResult, *, again: bool
    ) -> Exception | None:
        """One try. The exception that ended it, or None; RESULT says the same for the report."""
        checks = Checks()
        error: Exception | None = None
        try:
            self._put_machine_at_start(origin, again)
            one.run(self.world, checks)
            if (
                phase_verdict(checks.done, None)[0] is not Verdict.OS_FAULT
            ):  # nothing may start from a state known to be wrong
                self.world.save_checkpoint(one.checkpoint_name, self.keys[one.name])
                self.ended.add(one.name)
                self.current = one.name
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

    def _put_machine_at_start(self, origin: Phase | None, again: bool) -> None:
        """Put the machine where the phase begins; the running one goes on where it already stands there."""
        if not again and self.current == (origin.name if origin else None):
            return
        self.world.stop()
        if origin is None:
            self.world.reset()
            return
        try:
            self._restore(origin, f"the checkpoint of {origin.name} is gone")
        except UsageError as gone:
            raise LabFault(str(gone)) from None


def _console_length(log: Path | bytes | bytearray) -> int:
    if isinstance(log, Path):
        return log.stat().st_size if log.exists() else 0
    return len(log)


def _console_from(log: Path | bytes | bytearray, offset: int) -> bytes:
    if not isinstance(log, Path):
        return bytes(log[offset:])
    if not log.exists():
        return b""
    with log.open("rb") as file:
        file.seek(offset)
        return file.read()
