"""The threat model's own rules: what fails `make test` and `veilor check`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from fnmatch import fnmatch
from pathlib import Path

from veilor.build.threats.controls import LINES, Control, content, holds_many, matches, parse_control
from veilor.build.threats.kinds.files import audit_rules
from veilor.build.threats.kinds.registry import KINDS
from veilor.build.threats.kinds.subject import Mutation, lines_of
from veilor.build.threats.model import Claim, Model
from veilor.build.threats.proof import DOCTOR, phases

# Image checks of one setting by their kind: the argument that names it.
SETTING_OF = {"sysctl": "key", "karg": "argument"}


def problems(
    source_root: Path, model: Model, sabotages: Mapping[str, str] | None = None, today: date | None = None
) -> list[str]:
    """What is wrong with MODEL in the repository at SOURCE_ROOT, a sentence each; none when it keeps its
    rules.

    SABOTAGES: the rehearsal's, by name; without it their names are not looked up. A date after TODAY is
    refused.
    """
    found = [
        *names(model),
        *controls(source_root, model),
        *layers(model),
        *trials(source_root, model, sabotages),
        *unclaimed(source_root, model),
        *kinds(model),
    ]
    found += [
        f"{claim.id}: its date {claim.date} has not come yet"
        for claim in model.claims
        if today and claim.date > today
    ]
    return found


def names(model: Model) -> Iterator[str]:
    """Ids are each another, begin with their adversary's, and that is the file's name; nine adversaries are
    in scope and nine out.
    """
    ids = [claim.id for claim in model.claims]
    for one in sorted({one for one in ids if ids.count(one) > 1}):
        yield f"{one}: two claims have this id"
    for claim in model.claims:
        for layer in (claim.layer("image"), claim.layer("boot")):
            named = [check.id for check in layer]
            twice = {one for one in named if named.count(one) > 1}
            yield from (
                f"{one}: two checks of one layer have this id; give one a name" for one in sorted(twice)
            )
        if claim.id.split(".")[0] != claim.adversary:
            yield f"{claim.id}: it stands with {claim.adversary}, and its id says another adversary"
    if not any(claim.image or claim.boot for claim in model.claims):
        yield "no claim has a check"
    for adversary in model.adversaries:
        if adversary.file != f"{adversary.id}.toml":
            yield f"{adversary.file}: it holds the adversary {adversary.id}; name the file after it"
    for scope in ("in", "out"):
        orders = [one.order for one in model.adversaries if one.scope == scope]
        if sorted(orders) != list(range(1, len(orders) + 1)):
            yield f"the adversaries {scope} of scope are not numbered from 1 on: {sorted(orders)}"


def own_controls(claim: Claim) -> list[Control]:
    """The controls of CLAIM that lie in this repository."""
    return [parse_control(one) for one in claim.controls if not one.startswith("base:")]


def controls(source_root: Path, model: Model) -> Iterator[str]:
    """Every control is there: a file and what it says of a key, or a setting of the base, all of them used.

    Where claims share a file that holds many settings or functions, each names its own key there.
    """
    used = set()
    users: dict[str, set[str]] = {}  # of each path: the claims that name it, or a key of it
    for claim in model.claims:
        for control in own_controls(claim):
            users.setdefault(control.path, set()).add(claim.id)
    for claim in model.claims:
        for name in (one.removeprefix("base:") for one in claim.controls if one.startswith("base:")):
            used.add(name)
            if name not in model.base:
                yield f"{claim.id}: threats/base.toml names no base:{name}"
        for control in own_controls(claim):
            file = source_root / control.path
            others = users[control.path] - {claim.id}
            if not file.exists() and not file.is_symlink():
                yield f"{claim.id}: its control {control.path} does not exist"
            elif content(source_root, control) is None:
                yield f"{claim.id}: its control {control.path} does not say {control.key}"
            elif others and not control.key and holds_many(control.path):
                yield (
                    f"{claim.id}: its control {control.path} holds what {', '.join(sorted(others))} rests on "
                    "too, and a change in it would make the results of all of them stale; name the key: "
                    f"{control.path}#key"
                )
        yield from uncontrolled(claim)
        if claim.state in ("enforced", "opt-in") and not claim.controls:
            yield f"{claim.id}: it is {claim.state}, and names no control"
    yield from (f"threats/base.toml: no claim names {name}" for name in sorted(set(model.base) - used))


def uncontrolled(claim: Claim) -> Iterator[str]:
    """Single settings that CLAIM checks in the image and does not name as a control."""
    keys = {control.key for control in own_controls(claim)}
    for check in claim.image:
        setting = str(check.arguments.get(SETTING_OF.get(check.kind, ""), "")).split("=")[0]
        if setting and setting not in keys:
            yield f"{claim.id}: it checks {setting}, and no control of it says so; add FILE#{setting} to them"


def layers(model: Model) -> Iterator[str]:
    """A claim in state enforced is seen in the image, on the running machine, and by somebody who tries."""
    for claim in model.claims:
        for layer in ("image", "boot", "attack"):
            if claim.state == "enforced" and not claim.layer(layer):
                yield f"{claim.id}: it is enforced, and has no check at the layer {layer}"


def trials(source_root: Path, model: Model, sabotages: Mapping[str, str] | None) -> Iterator[str]:
    """Phases that are named exist, and so do the sabotages; a scenario whose phases have the negative control
    themselves names the claim; every phase of attacks, outside and strangers belongs to a claim.
    """
    known, used = phases(source_root), {DOCTOR}
    for claim in model.claims:
        for trial in (*claim.attack, *claim.usability):
            used.add(trial.run)
            if trial.run not in known:
                yield f"{claim.id}: there is no phase {trial.run}"
            kind, _, name = trial.negative_control.partition(" ")
            if kind == "sabotage" and sabotages is not None and name not in sabotages:
                yield f"{claim.id}: the rehearsal has no sabotage {name}"
            if kind == "phase" and trial.run in known and not is_tried(source_root, trial.run, claim.id):
                yield (
                    f"{claim.id}: {trial.run} is to try it and its negative control, and "
                    "its scenario does not name the claim; write the try, or name another phase"
                )
    for run in sorted(known - used):
        if run.startswith(("attacks:", "outside:", "strangers:")):
            yield f"{run}: this phase checks something that no claim says"


def is_tried(source_root: Path, run: str, claim: str) -> bool:
    """Whether the scenario of RUN ("scenario:phase") names CLAIM, whose try is a check of that name."""
    return claim in (source_root / f"scenarios/{run.partition(':')[0]}.py").read_text()


def claimed_settings(model: Model) -> set[str]:
    """What some claim's image check is about: `#KEY` of sysctl, `#ARGUMENT` of the kernel, `PATH#LINE` of a
    file, and `PATH#WORD ` where it is about every line that begins with a word."""
    found: set[str] = set()
    for check in (check for claim in model.claims for check in claim.image):
        given, path = check.arguments, check.arguments.get("path")
        if check.kind in SETTING_OF:
            found.add(f"#{given.get(SETTING_OF[check.kind])}")
        elif check.kind == "every":
            found.update(f"{path}#{word} " for word in given.get("words", ()))
        elif check.kind == "lines":
            found.update(f"{path}#{line}" for line in given.get("has", ()))
        elif check.kind == "audit":
            found.update(f"{path}#{line}" for line in audit_rules(given["watch"]))
    return found


def settings_of(file: Path) -> list[str]:
    """The single settings in a file of the kinds that hold many: each needs a
    claim, or a reason, of its own.
    """
    if file.parent.name == "sysctl.d":
        return [line.split("=")[0].strip() for line in lines_of(file.read_text())]
    if file.parent.name == "kargs.d":
        return list(tomllib.loads(file.read_text())["kargs"])
    if not matches(str(file), LINES):
        return []
    return [line for line in lines_of(file.read_text()) if not line.startswith("[")]


def unclaimed(source_root: Path, model: Model) -> Iterator[str]:
    """Files and settings of overlay/ that no claim names and no reason excuses, and excuses for what is not
    there.
    """
    named = {control.path for claim in model.claims for control in own_controls(claim)}
    claimed = claimed_settings(model)
    needed: set[str] = set()
    for file in sorted((source_root / "overlay").rglob("*")):
        if (file.is_dir() and not file.is_symlink()) or "__pycache__" in file.parts:
            continue
        path = str(file.relative_to(source_root))
        installed = path.removeprefix("overlay/")
        for setting in [] if file.is_symlink() else settings_of(file):
            names = {f"#{setting}", f"{installed}#{setting}", f"{installed}#{setting.split()[0]} "}
            if not claimed & names:
                needed.add(f"{path}#{setting}")
        if path not in named:
            needed.add(path)
    for path in sorted(needed):
        if not matches(path, tuple(model.excused)):
            yield f"{path}: no claim names it, and threats/excused.toml gives no reason"
    for pattern in model.excused:
        if not any(fnmatch(path, pattern) for path in needed):
            yield f"threats/excused.toml: {pattern} excuses nothing: it is gone, or a claim names it now"


def kinds(model: Model) -> Iterator[str]:
    """Image checks are of kinds that exist, with the arguments these take and at least one mutation; every
    kind is used.
    """
    used = {check.kind for claim in model.claims for check in claim.image}
    yield from (f"no image check is of the kind {kind}" for kind in sorted(set(KINDS) - used))
    for claim in model.claims:
        for check in claim.image:
            if check.kind not in KINDS:
                yield f"{check.id}: there is no kind {check.kind}"
                continue
            try:
                mutations: list[Mutation] = KINDS[check.kind].mutations(**check.arguments)
            except TypeError as error:
                yield f"{check.id}: {error}"
                continue
            if not mutations:
                yield f"{check.id}: nothing proves that it can fail"
