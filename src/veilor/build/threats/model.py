"""The threat model's source: threats/*.toml, read into claims with their
checks. Shapes: threats/schema.json.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema

from veilor.build.errors import BuildError
from veilor.core import claims

FOLDER = "threats"
LAYERS = ("image", "boot", "attack", "usability")
ALONE = ("excused", "base", "compared")  # files of the folder that are no adversary


AS_SHIPPED = "as-shipped"
PUT_BACK = (
    "`sudo cp -a /usr/etc/NAME /etc/NAME` for what is named as changed or missing, `sudo rm /etc/NAME` for "
    "what is not the image's; then restart"
)
# Folders of the overlay, and the folder of /etc whose files hide or change those of the same name there.
HIDDEN = {
    "overlay/etc/": "",
    "overlay/usr/lib/firewalld/": "firewalld/",
    "overlay/usr/lib/modprobe.d/": "modprobe.d/",
    "overlay/usr/lib/sysctl.d/": "sysctl.d/",
    "overlay/usr/lib/systemd/": "systemd/",
    "overlay/usr/lib/tmpfiles.d/": "tmpfiles.d/",
    "overlay/usr/share/polkit-1/": "polkit-1/",
}
OPENED = "firewalld/zones/"  # there a person's own choices lie, which fail no check
# Units that disable themselves when their work is done.
SETTLED = {
    f"systemd/system/multi-user.target.wants/veilor-{name}.service"
    for name in ("firstboot-rebase", "usbguard-enroll")
}


@dataclass(frozen=True)
class ImageCheck:
    """A check of the staged tree (or, where `built`, only of a built image).

    `kind` names one of build/threats/kinds/registry.py, and `arguments` are what it takes.
    """

    id: str
    kind: str
    arguments: dict[str, Any]
    built: bool = False


@dataclass(frozen=True)
class Trial:
    """A phase of a scenario in which somebody tries (attack) or uses what was promised (usability).

    `negative_control` says how the trial is seen to fail: `sabotage NAME` of the rehearsal, `phase` when the
    phase itself removes the control and tries again, or `none` with the reason.
    """

    run: str
    negative_control: str


@dataclass(frozen=True)
class Claim:
    """One claim. `controls`: what it rests on, in the forms that build/threats/controls.py explains."""

    id: str
    adversary: str
    asset: str
    says: str
    state: str
    controls: tuple[str, ...]
    date: date
    bypass: str = ""
    cost: str = ""
    how: str = ""
    image: tuple[ImageCheck, ...] = ()
    boot: tuple[claims.Check, ...] = ()
    attack: tuple[Trial, ...] = ()
    usability: tuple[Trial, ...] = ()

    def layer(self, name: str) -> tuple[Any, ...]:
        """The checks at the layer NAME, one of LAYERS."""
        found: tuple[Any, ...] = getattr(self, name)
        return found

    def trials(self, layer: str) -> tuple[Trial, ...]:
        """The trials at LAYER, attack or usability."""
        return {"attack": self.attack, "usability": self.usability}[layer]


@dataclass(frozen=True)
class Adversary:
    """Who is meant, what they can do, and what is claimed.

    `scope` is `in` or `out`; `tool` and `because` are the better tool for one out of scope.
    """

    id: str
    file: str
    order: int
    scope: str
    title: str
    story: str
    tool: str = ""
    because: str = ""
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What the protection costs a person, as the page says it."""

    title: str
    text: str


@dataclass(frozen=True)
class BaseSetting:
    """A setting of the base that claims name as `base:NAME`. `known_by`: who says that it is so, and when."""

    name: str
    what: str
    known_by: str


@dataclass(frozen=True)
class Cell:
    """What is so of one system on one axis of the comparison, where that is said, and when it was current."""

    text: str
    source: str
    when: date


@dataclass(frozen=True)
class Axis:
    """One thing on which systems are compared. `best`: who serves a person best; `cells` by system."""

    title: str
    best: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Comparison:
    """The systems that are compared on each axis; `tools` stand only where they are the better tool."""

    systems: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()


@dataclass(frozen=True)
class Model:
    """All of threats/. `base`: the base's settings by name; `excused`: path or pattern of overlay files that
    are no control, with the reason.
    """

    adversaries: tuple[Adversary, ...]
    costs: tuple[Cost, ...] = ()
    base: dict[str, BaseSetting] = field(default_factory=dict)
    excused: dict[str, str] = field(default_factory=dict)
    compared: Comparison = Comparison()

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Every claim, in the order of the adversaries."""
        return tuple(claim for adversary in self.adversaries for claim in adversary.claims)


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML file at PATH. Raises BuildError."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BuildError(
            f"{path} cannot be used ({error}); fix it, nothing was made from the threat model"
        ) from None


def load_model(source_root: Path) -> Model:
    """The threat model of the repository at SOURCE_ROOT.

    Raises BuildError that names the file and what is wrong in it.
    """
    folder = source_root / FOLDER
    files = sorted(path for path in folder.glob("*.toml") if path.stem not in ALONE)
    if not files:
        raise BuildError(f"{folder} holds no adversary; stage from a whole clone of the repository")
    schema = json.loads((folder / "schema.json").read_text())
    adversaries: list[Adversary] = []
    costs: list[Cost] = []
    for path in files:
        data = read_toml(path)
        problem = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(dates_as_text(data))), None)
        if problem:
            where = "/".join(map(str, problem.absolute_path)) or "the file"
            raise BuildError(f"{FOLDER}/{path.name}: {where}: {problem.message[:300]}")
        costs += [Cost(cost["title"], cost["text"]) for cost in data.get("cost", [])]
        adversaries.append(make_adversary(data, path.name))
    settings = [BaseSetting(**row) for row in read_toml(folder / "base.toml").get("setting", [])]
    excused = read_toml(folder / "excused.toml").get("excused", [])
    return Model(
        tuple(sorted(adversaries, key=lambda one: (one.scope != "in", one.order))),
        tuple(costs),
        {one.name: one for one in settings},
        {row["path"]: row["because"] for row in excused},
        make_comparison(read_toml(folder / "compared.toml")),
    )


def dates_as_text(data: Any) -> Any:
    """DATA with dates as text, which JSON schemas can describe."""
    if isinstance(data, dict):
        return {key: dates_as_text(value) for key, value in data.items()}
    if isinstance(data, list):
        return [dates_as_text(value) for value in data]
    return data.isoformat() if isinstance(data, date) else data


def make_comparison(data: dict[str, Any]) -> Comparison:
    """The comparison in the DATA of compared.toml."""
    axes = []
    for row in data["axis"]:
        cells = {system: Cell(*cell) for system, cell in row["cells"].items()}
        axes.append(Axis(row["title"], row["best"], cells))
    return Comparison(tuple(data["systems"]), tuple(data["tools"]), tuple(axes))


def make_adversary(data: dict[str, Any], file: str) -> Adversary:
    """The adversary in the valid DATA of FILE."""
    return Adversary(
        data["id"],
        file,
        data["order"],
        data["scope"],
        data["title"],
        data["story"],
        data.get("tool", ""),
        data.get("because", ""),
        tuple(make_claim(row, data["id"]) for row in data.get("claim", [])),
    )


def names_in_etc(controls: list[str]) -> list[str]:
    """The paths from /etc of what CONTROLS ship there, or of what would hide it from there."""
    paths = [control.partition("#")[0] for control in controls]
    named = {
        path.replace(folder, etc, 1)
        for path in paths
        for folder, etc in HIDDEN.items()
        if path.startswith(folder)
    }
    return sorted(named - SETTLED)


def make_claim(row: dict[str, Any], adversary_id: str) -> Claim:
    """A claim with the checks it states, and those that its short lists and its files in /etc stand for."""
    image, boot = stated_checks(row)
    for text in row.get("sysctl", []):
        key, want = text.split(" = ", 1)
        fix = f"look for a file in /etc/sysctl.d that sets {key}, remove the line and restart"
        arguments = {"key": key, "want": want}
        image.append(ImageCheck(f"{row['id']}/{key}", "sysctl", arguments))
        boot.append(claims.Check(f"{row['id']}/{key}", "sysctl", arguments, fix))
    for text in row.get("karg", []):
        fix = f"`rpm-ostree kargs --append-if-missing={text}`, or remove what overrides it, and restart"
        image.append(ImageCheck(f"{row['id']}/{text}", "karg", {"argument": text}))
        boot.append(claims.Check(f"{row['id']}/{text}", "karg", {"argument": text}, fix))
    for unit in row.get("masked", []):
        state = {"name": unit, "load": ["masked"], "active": "inactive"}
        image.append(ImageCheck(f"{row['id']}/{unit}", "masked", {"path": f"etc/systemd/system/{unit}"}))
        boot.append(claims.Check(f"{row['id']}/{unit}", "unit", state, f"`sudo systemctl mask --now {unit}`"))
    names = names_in_etc(row.get("controls", [])) if row["state"] == "enforced" else []
    if any(not name.startswith(OPENED) for name in names):
        boot.append(claims.Check(f"{row['id']}/{AS_SHIPPED}", AS_SHIPPED, {"names": names}, PUT_BACK))
    return Claim(
        row["id"],
        adversary_id,
        row["asset"],
        row["says"],
        row["state"],
        tuple(row.get("controls", [])),
        row["date"],
        row.get("bypass", ""),
        row.get("cost", ""),
        row.get("how", ""),
        tuple(image),
        tuple(boot),
        make_trials(row.get("attack", [])),
        make_trials(row.get("usability", [])),
    )


def stated_checks(row: dict[str, Any]) -> tuple[list[ImageCheck], list[claims.Check]]:
    """The checks that a claim's ROW states one by one: of the image, and of the running machine."""
    image = []
    for one in row.get("image", []):
        name = f"{row['id']}/{one.get('name', one['kind'])}"
        image.append(ImageCheck(name, one["kind"], one.get("with", {}), one.get("built", False)))
    boot = []
    for one in row.get("boot", []):
        boot.append(
            claims.Check(
                f"{row['id']}/{one.get('name', one['kind'])}",
                one["kind"],
                one.get("with", {}),
                one["mend"],
                one.get("capability", ""),
                one.get("when", ""),
                one.get("otherwise", ""),
            )
        )
    return image, boot


def make_trials(rows: list[dict[str, str]]) -> tuple[Trial, ...]:
    """The trials in ROWS of a claim."""
    return tuple(Trial(one["run"], one["negative_control"]) for one in rows)


def render_claims(model: Model) -> str:
    """The text of /usr/lib/veilor/claims.json: what the machine's veilor-doctor knows of MODEL."""
    return claims.render(
        claims.Claim(one.id, one.adversary, one.says, one.state, one.boot) for one in model.claims
    )
