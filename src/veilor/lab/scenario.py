"""Scenarios: Python modules with plain functions in order, each marked `@phase(name, title)`.

A phase is called with the World (the machine and what surrounds it) and a Checks.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from veilor.lab.cache import key_of
from veilor.lab.verdict import Checks, UsageError

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
PhaseFunction = Callable[[Any, Checks], None]


@dataclass(frozen=True)
class Phase:
    """One step of a scenario.

    `starts_from` names the phase whose checkpoint it takes; None is the one before it. An `independent` one
    runs even when a phase it does not build on has failed. `scenario` is the one it was written for, and
    `common` the hash of that module's code outside of its phase functions.
    """

    name: str
    title: str
    run: PhaseFunction
    starts_from: str | None = None
    independent: bool = False
    scenario: str = ""
    common: str = ""

    @property
    def checkpoint_name(self) -> str:
        """The name of its checkpoint in a store that several scenarios share."""
        return f"{self.scenario}.{self.name}"


@dataclass(frozen=True)
class Scenario:
    """A scenario's phases in order. The first INHERITED of them belong to the scenario that it goes on from.

    FLAVOUR is the one of flavour.py that its machines need; empty for the plain base.
    """

    name: str
    title: str
    story: str
    phases: list[Phase]
    inherited: int = 0
    flavour: str = ""

    def up_to(self, name: str) -> Scenario:
        """This scenario without the phases after NAME. Raises UsageError when it has none of that name."""
        last = self.position_of(name)
        if last == len(self.phases) - 1:
            return self
        return replace(
            self, phases=self.phases[: last + 1], story=f"{self.title}, as far as: {self.phases[last].title}"
        )

    def position_of(self, name: str) -> int:
        """The index of phase NAME in the order. Raises UsageError when there is none."""
        names = [phase.name for phase in self.phases]
        if name not in names:
            raise UsageError(f"{self.name} has no phase {name}; it has: {', '.join(names)}")
        return names.index(name)


def phase(
    name: str, title: str, *, starts_from: str | None = None, independent: bool = False
) -> Callable[[PhaseFunction], PhaseFunction]:
    """Mark a function as phase NAME; see `Phase` for the rest. Raises ValueError for what cannot be one."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't name a phase: small letters, digits and dashes")
    if independent and not starts_from:
        raise ValueError(f"phase {name} is independent, so it has to say which phase it starts from")

    def mark(function: PhaseFunction) -> PhaseFunction:
        function.phase = Phase(name, title, function, starts_from, independent)  # type: ignore[attr-defined]
        return function

    return mark


def load_scenario(name: str, folder: Path) -> Scenario:
    """Scenario NAME from FOLDER/NAME.py, behind the phases it goes on from.

    A module that says AFTER = "SCENARIO:PHASE" takes the machine where that phase has left it. One that says
    FLAVOUR runs on that flavour of the base, also through the phases before. Raises UsageError that lists
    what there is, or says what is wrong with the module.
    """
    known = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if name not in known:
        raise UsageError(f"no scenario is called {name}; there are: {', '.join(known) or 'none'}")
    path = folder / f"{name}.py"
    module = _load_module(name, path)
    common = _hash_common_code(path.read_text(), folder)
    own = []
    for value in vars(module).values():
        marked = getattr(value, "phase", None)
        if isinstance(marked, Phase):
            own.append(replace(marked, scenario=name, common=common))
    if not own:
        raise UsageError(f"{path.name}: no function in it is marked as a phase")
    phases = _inherited_phases(getattr(module, "AFTER", ""), folder) + own
    _check_phases(path.name, phases)
    title = (inspect.getdoc(module) or name).splitlines()[0].rstrip(".")
    return Scenario(
        name,
        title,
        getattr(module, "STORY", ""),
        phases,
        len(phases) - len(own),
        getattr(module, "FLAVOUR", ""),
    )


def _load_module(name: str, path: Path) -> ModuleType:
    """The module of scenario NAME in the file PATH. Raises UsageError for whatever goes wrong in it."""
    spec = importlib.util.spec_from_file_location(f"scenarios.{name.replace('-', '_')}", path)
    assert spec and spec.loader, "a file that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a module that somebody is writing can do
        raise UsageError(
            f"{path} can't be loaded ({type(error).__name__}: {error}); fix it, or take it from git"
        ) from None
    return module


def _check_phases(file: str, phases: list[Phase]) -> None:
    """Raise UsageError unless each of PHASES has a name of its own and starts from an earlier one."""
    seen: list[str] = []
    for one in phases:
        if one.name in seen:
            raise UsageError(f"{file}: two phases are called {one.name}")
        if one.starts_from and one.starts_from not in seen:
            raise UsageError(
                f"{file}: phase {one.name} starts from {one.starts_from}, which is no earlier phase"
            )
        seen.append(one.name)


def _inherited_phases(after: str, folder: Path) -> list[Phase]:
    """The phases that AFTER ("SCENARIO:PHASE", or nothing) asks for."""
    if not after:
        return []
    name, _, last = after.partition(":")
    return load_scenario(name, folder).up_to(last).phases


def _hash_common_code(source: str, folder: Path) -> str:
    """A hash of the module SOURCE without its phase functions.

    That is its helpers and constants, and the guest programs of FOLDER that it names.
    """
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not _is_phase(node)]
    named = source.replace(".run_try(", "guest/tries.py")  # that is what it runs
    guest = []
    for path in sorted((folder / "guest").glob("*.py")):
        if f"guest/{path.name}" in named:
            guest.append(path.read_text())
    return hashlib.sha256("\0".join([ast.dump(tree), *guest]).encode()).hexdigest()


def _is_phase(node: ast.stmt) -> bool:
    """Whether NODE is a function that a call of `phase` decorates."""
    if not isinstance(node, ast.FunctionDef):
        return False
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("phase"):
            return True
    return False


def predecessor_of(scenario: Scenario, index: int) -> Phase | None:
    """The phase from whose end phase INDEX begins; None for one that begins on a fresh machine."""
    chosen = scenario.phases[index].starts_from
    if chosen:
        return scenario.phases[scenario.position_of(chosen)]
    return scenario.phases[index - 1] if index else None


def checkpoint_keys(scenario: Scenario, inputs: Mapping[str, Any]) -> dict[str, str]:
    """The key of each phase's checkpoint, by the phase's name.

    INPUTS, the phase's code and the keys of all that it builds on go into it. Later phases don't matter.
    """
    keys: dict[str, str] = {}
    for index, one in enumerate(scenario.phases):
        predecessor = predecessor_of(scenario, index)
        went_in = {
            "inputs": inputs,
            "common": one.common,
            "code": inspect.getsource(one.run),
            "before": keys[predecessor.name] if predecessor else None,
        }
        keys[one.name] = key_of(one.name, went_in)
    return keys
