"""The proof of a result: a hash of what it rests on, so that it goes stale when that changes, and only then.

A result of a phase for a claim rests on the claim's controls (controls.py), on the checks that it is about,
and on the code that makes them: the phase with the helpers that it uses, the guest programs that it sends
into the machine, and, for what veilor-doctor says, the doctor's own checks.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from veilor.build.errors import BuildError
from veilor.build.threats import code
from veilor.build.threats.controls import content, parse_control
from veilor.build.threats.model import Claim, Model
from veilor.core import claims

DOCTOR = "attacks:doctor"  # the phase that runs veilor-doctor on a machine: what it shows is the boot layer's
DOCTOR_CODE = "src/veilor/device/doctor"
GUEST = re.compile(r"(?:^|/)guest/([\w.-]+)$")  # a text of a scenario that names a program for the machine
RUN_TRY = "run_try"  # the method of a World that runs a try
TRIES = "tries.py"  # the program for the guest that has them
DOCTOR_FUNCTIONS = {"unit": "Units"}  # kinds whose check is not the function of their name


def read_scenarios(source_root: Path) -> dict[str, code.Module]:
    """Every scenario's module by the scenario's name. Raises BuildError for one that cannot be read."""
    found = {}
    for path in sorted((source_root / "scenarios").glob("[!_]*.py")):
        try:
            found[path.stem] = code.read_module(path.read_text())
        except (SyntaxError, ValueError) as error:
            raise BuildError(
                f"{path} is no scenario that can be read ({error}); fix it, or take it from git"
            ) from None
    return found


def phases(source_root: Path) -> set[str]:
    """SCENARIO:PHASE of every phase of every scenario. Raises BuildError."""
    return {
        f"{name}:{phase}" for name, module in read_scenarios(source_root).items() for phase in module.phases
    }


def phase_code(source_root: Path, run: str) -> list[str]:
    """The code of the phase RUN (SCENARIO:PHASE), and of what it starts in a guest; nothing without one."""
    scenario, _, phase = run.partition(":")
    module = read_scenarios(source_root).get(scenario)
    if module is None or phase not in module.phases:
        return []
    parts = module.reached([module.phases[phase]])
    texts = {text for part in parts for text in part.texts}
    guests = {found[1] for text in texts if (found := GUEST.search(text))}
    if any(RUN_TRY in part.attributes for part in parts):
        guests.add(TRIES)
    programs = [guest_code(source_root / "scenarios/guest" / name, texts) for name in sorted(guests)]
    return [*(part.code for part in parts), *programs]


def guest_code(path: Path, texts: set[str]) -> str:
    """What a phase with these TEXTS uses of the guest program at PATH: the functions it names, else all."""
    if not path.is_file():
        return f"no {path.name}"
    text = path.read_text()
    if path.suffix != ".py":
        return text
    module = code.read_module(text)
    named = [name for name in module.parts if {name, name.replace("_", "-")} & texts]
    return module.code(named or list(module.parts))


def doctor_code(source_root: Path, kinds: set[str]) -> list[str]:
    """The doctor's code for checks of KINDS: the function of that name, and what it reaches in its module.

    Raises BuildError for a kind that no module there has.
    """
    modules = [
        code.read_module(path.read_text()) for path in sorted((source_root / DOCTOR_CODE).glob("*.py"))
    ]
    found = []
    for kind in sorted(kinds):
        name = DOCTOR_FUNCTIONS.get(kind, kind.replace("-", "_"))
        homes = [module for module in modules if name in module.parts]
        if not homes:
            raise BuildError(f"{DOCTOR_CODE} has no {name}, which should make the checks of the kind {kind}")
        found += [f"{kind}\n{module.code([name])}" for module in homes]
    return found


def boot_facts(check: claims.Check) -> list[Any]:
    """What a boot check asks; what it tells a person to do is no part of that."""
    return [check.id, check.kind, check.arguments, check.capability, check.when]


def proof_of(source_root: Path, model: Model, claim: Claim, layer: str, run: str) -> str:
    """The hash of what a result of RUN (SCENARIO:PHASE) for CLAIM at LAYER rests on in the sources."""
    rests_on: list[Any] = [claim.id, layer, run]
    for control in claim.controls:
        if control.startswith("base:"):
            setting = model.base.get(control.removeprefix("base:"))
            rests_on.append([control, asdict(setting) if setting else None])
        else:
            rests_on.append([control, content(source_root, parse_control(control))])
    if layer == "boot":
        rests_on += [boot_facts(check) for check in claim.boot]
        rests_on += doctor_code(source_root, {check.kind for check in claim.boot})
    else:
        rests_on += [trial.negative_control for trial in claim.trials(layer) if trial.run == run]
    rests_on += phase_code(source_root, run)
    return hashlib.sha256(json.dumps(rests_on, sort_keys=True, default=str).encode()).hexdigest()
