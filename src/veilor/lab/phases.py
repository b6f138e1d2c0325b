"""Scenarios and the runner that takes a machine through their phases.

A scenario is a Python module with plain functions in order, each marked `@phase(name, title)` and called with the
machine's life and a Checks. After each phase that ran to its end the life saves a checkpoint, keyed by everything that
went in, so that a later run can start there and a LAB_FAULT can be tried once more from the same state.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from veilor.lab.cache import key_of
from veilor.lab.checkpoint import Checkpoints
from veilor.lab.report import Progress, clean_console
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
    judge,
    verdict_of,
)

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class LifeLike(Protocol):
    """What the runner needs of a machine's life. Counters and lists only ever grow; `timings` may be missing."""

    boots: int
    screenshots: list[tuple[Path, str]]
    console_log: Path | bytes | bytearray

    def save_checkpoint(self, name: str, key: str) -> None: ...
    def restore_checkpoint(self, name: str, key: str) -> None: ...
    def reset(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class Phase:
    """One step of a scenario. `starts_from` names the phase whose checkpoint it takes; None is the one before it."""

    name: str
    title: str
    run: Callable[[Any, Checks], None]
    starts_from: str | None = None
    independent: bool = False


@dataclass(frozen=True)
class Scenario:
    """A scenario's phases in order, and the hash of its module's code outside of the phase functions."""

    name: str
    title: str
    story: str
    phases: list[Phase]
    common: str


def phase(name: str, title: str, *, starts_from: str | None = None, independent: bool = False):
    """Mark a function as phase NAME. An INDEPENDENT one runs even when a phase it does not build on has failed."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't name a phase: small letters, digits and dashes")
    if independent and not starts_from:
        raise ValueError(f"phase {name} is independent, so it has to say which phase it starts from")

    def mark(function):
        function.phase = Phase(name, title, function, starts_from, independent)
        return function

    return mark


def load_scenario(name: str, folder: Path) -> Scenario:
    """Scenario NAME from FOLDER/NAME.py. Raises UsageError that lists what there is."""
    known = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if name not in known:
        raise UsageError(f"no scenario is called {name}; there are: {', '.join(known) or 'none'}")
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"scenarios.{name.replace('-', '_')}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    phases = [value.phase for value in vars(module).values() if isinstance(getattr(value, "phase", None), Phase)]
    seen: list[str] = []
    for one in phases:
        if one.name in seen:
            raise ValueError(f"{path.name}: two phases are called {one.name}")
        if one.starts_from and one.starts_from not in seen:
            raise ValueError(f"{path.name}: phase {one.name} starts from {one.starts_from}, which is no earlier phase")
        seen.append(one.name)
    if not phases:
        raise ValueError(f"{path.name}: no function in it is marked as a phase")
    title = (inspect.getdoc(module) or name).splitlines()[0].rstrip(".")
    return Scenario(name, title, getattr(module, "STORY", ""), phases, _common_code(path.read_text()))


def _common_code(source: str) -> str:
    """A hash of a module's code without its phase functions: helpers and constants that any phase may use."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not (
        isinstance(node, ast.FunctionDef)
        and any(isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("phase") for mark in node.decorator_list))]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def origin_of(scenario: Scenario, index: int) -> Phase | None:
    """The phase from whose end phase INDEX begins; None for a fresh machine."""
    chosen = scenario.phases[index].starts_from
    if chosen:
        return next(one for one in scenario.phases if one.name == chosen)
    return scenario.phases[index - 1] if index else None


def checkpoint_keys(scenario: Scenario, inputs: Mapping[str, Any]) -> dict[str, str]:
    """The key of each phase's checkpoint: inputs, code, and the keys of all it builds on. Later phases don't matter."""
    keys: dict[str, str] = {}
    for index, one in enumerate(scenario.phases):
        before = origin_of(scenario, index)
        went_in = {"inputs": inputs, "common": scenario.common, "code": inspect.getsource(one.run),
                   "before": keys[before.name] if before else None}
        keys[one.name] = key_of(one.name, went_in)
    return keys


class Stopped(KeyboardInterrupt):
    """Somebody asked the rehearsal to end: Ctrl-C, kill, or a closed terminal."""


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], None]]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into Stopped and ignore the rest; yields what makes us deaf to all."""
    kinds = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        kinds.append(signal.SIGHUP)

    def deafen(*_: object) -> None:
        for kind in kinds:
            signal.signal(kind, signal.SIG_IGN)

    def stop(number: int, _: object) -> None:
        deafen()
        raise Stopped(signal.Signals(number).name)

    before = {kind: signal.signal(kind, stop) for kind in kinds}
    try:
        yield deafen
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def run_scenario(
    scenario: Scenario, life: LifeLike, *, inputs: Mapping[str, Any], about: About, start: str | None = None,
    records: Checkpoints | None = None, report: Callable[[Run], None] | None = None, progress: Progress | None = None,
) -> Run:
    """Take LIFE through SCENARIO, from phase START if given; what came of it.

    INPUTS go into every checkpoint's key. RECORDS keeps what each phase showed, so that a run from a later phase can
    carry it over. REPORT is called before the first phase, after each and at the end. Faults end up in the Run;
    UsageError is raised for an unknown START or one without a checkpoint. Call it from the main thread.
    """
    runner = _Runner(scenario, life, inputs, about, records, report or (lambda run: None),
                     progress or Progress(len(scenario.phases)))
    return runner.go(start)


def failed_set_up(scenario: Scenario, error: BaseException, about: About) -> Run:
    """The Run of a rehearsal whose set-up raised ERROR: no phase was run, and the verdict is the error's."""
    run = _new_run(scenario, about)
    run.fault, run.reason = verdict_of(error)
    run.interrupted = isinstance(error, KeyboardInterrupt)
    run.log = "" if isinstance(error, (Fault, KeyboardInterrupt)) else "".join(traceback.format_exception(error))
    for result in run.phases:
        result.reason = "the set-up did not get this far"
    return run


def _new_run(scenario: Scenario, about: About) -> Run:
    results = [PhaseResult(one.name, one.title, reason="not reached") for one in scenario.phases]
    return Run(scenario.name, scenario.title, scenario.story, _now(), about, results)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Runner:
    def __init__(self, scenario, life, inputs, about, records, report, progress) -> None:
        self.scenario, self.life, self.records, self.report, self.progress = scenario, life, records, report, progress
        self.keys = checkpoint_keys(scenario, inputs)
        self.run = _new_run(scenario, about)
        self.ended: set[str] = set()  # phases that came to their end, here or in an earlier run: they have a checkpoint
        self.broken: list[Phase] = []  # phases that were begun and did not
        self.current: str | None = None  # the phase whose end the machine stands at
        self.began = time.monotonic()

    def go(self, start: str | None) -> Run:
        with stop_on_signals() as deafen:
            try:
                first = self._carry_over(start) if start else 0
                self._write()
                for index in range(first, len(self.scenario.phases)):
                    self._phase(index)
                    self._write()
            except KeyboardInterrupt:
                self.run.interrupted = True
                self.run.reason = "stopped before its end by the person who ran it"
                self.progress.say("stopping the machine …")
            except Fault as fault:
                self._fail(fault)
            finally:
                deafen()
                self.progress.close()
                try:
                    self.life.stop()
                except Exception as error:
                    self._fail(error)
            self._write()
        return self.run

    def _fail(self, error: Exception) -> None:
        """Take down a fault that belongs to no phase."""
        self.run.fault, self.run.reason = verdict_of(error)
        self.run.log += "".join(traceback.format_exception(error))

    def _write(self) -> None:
        self.run.seconds = time.monotonic() - self.began
        self.run.timings = list(getattr(self.life, "timings", []))
        self.report(self.run)

    def _carry_over(self, start: str) -> int:
        """Take what the phases before START showed from earlier runs; START's place in the order."""
        names = [one.name for one in self.scenario.phases]
        if start not in names:
            raise UsageError(f"{self.scenario.name} has no phase {start}; it has: {', '.join(names)}")
        first = names.index(start)
        before = origin_of(self.scenario, first)
        if before:
            self._restore(before, f"can't start from {start}: no earlier run with the same inputs got through "
                                  f"{before.name}; run {self.scenario.name} from its beginning")
        for index in range(first):
            kept = self._record(names[index])
            if kept:
                self.run.phases[index] = kept
                self.ended.add(names[index])
            else:
                self.run.phases[index].reason = f"left out by --from {start}, and no earlier run with the same inputs showed it"
        if before:
            self.ended.add(before.name)
        return first

    def _restore(self, origin: Phase, complaint: str) -> None:
        try:
            self.life.restore_checkpoint(origin.name, self.keys[origin.name])
        except (UsageError, KeyError):
            raise UsageError(complaint) from None
        self.current = origin.name

    def _record(self, name: str) -> PhaseResult | None:
        entry = self.records.find(f"{name}.shown", self.keys[name]) if self.records else None
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

    def _keep_record(self, result: PhaseResult) -> None:
        if not self.records:
            return
        shots = {f"{number:02d}{Path(shot.path).suffix}": Path(shot.path) for number, shot in enumerate(result.screenshots)}
        kept = {**asdict(result), "screenshots": [{"path": name, "caption": shot.caption}
                                                  for name, shot in zip(shots, result.screenshots, strict=True)]}
        self.records.save(f"{result.name}.shown", self.keys[result.name], shots,
                          {"result": json.loads(json.dumps(kept)), "shown": self.run.started})

    def _phase(self, index: int) -> None:
        """Run one phase, a second time if the lab failed it, and take down what came of it."""
        one, result = self.scenario.phases[index], self.run.phases[index]
        origin = origin_of(self.scenario, index)
        unmet = [origin] if origin and origin.name not in self.ended else []
        unmet += [] if one.independent else self.broken
        if unmet:
            result.reason = f"“{unmet[-1].title}” did not come to its end, and this builds on it"
            self.progress.done(index, result)
            return
        result.reason = "still running when this was written"
        self.progress.start(index, one.title)
        began, boots, shots = time.monotonic(), self.life.boots, len(self.life.screenshots)
        console = _console_length(self.life.console_log)
        try:
            fault = self._attempt(one, origin, result, again=False)
            if isinstance(fault, Exception) and result.verdict is Verdict.LAB_FAULT:
                result.retried = result.reason
                self.progress.say(f"the lab failed this phase ({result.reason}); once more from its checkpoint")
                self._attempt(one, origin, result, again=True)
        except KeyboardInterrupt:
            result.verdict, result.reason = Verdict.NOT_RUN, "stopped by the person who ran it before it came to its end"
            raise
        finally:
            result.seconds = time.monotonic() - began
            result.boots = self.life.boots - boots
            result.screenshots = [Screenshot(str(path), caption) for path, caption in self.life.screenshots[shots:]]
            result.console = clean_console(_console_from(self.life.console_log, console))
            self.progress.done(index, result)
        if one.name in self.ended:
            self._keep_record(result)
        else:
            self.broken.append(one)

    def _attempt(self, one: Phase, origin: Phase | None, result: PhaseResult, *, again: bool) -> Exception | None:
        """One try. The exception that ended it, or None; RESULT says the same for the report."""
        checks = Checks()
        error: Exception | None = None
        try:
            self._place(origin, again)
            one.run(self.life, checks)
            if judge(checks.done, None)[0] is not Verdict.OS_FAULT:  # nothing may start from a state known to be wrong
                self.life.save_checkpoint(one.name, self.keys[one.name])
                self.ended.add(one.name)
                self.current = one.name
        except Exception as caught:
            error, self.current = caught, None
        finally:
            result.checks = checks.done
        result.verdict, result.reason = judge(checks.done, error)
        if error and not isinstance(error, Fault):
            result.log += "".join(traceback.format_exception(error))
        return error

    def _place(self, origin: Phase | None, again: bool) -> None:
        """Put the machine where the phase begins; the running one goes on where it already stands there."""
        if not again and self.current == (origin.name if origin else None):
            return
        self.life.stop()
        if origin is None:
            self.life.reset()
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
