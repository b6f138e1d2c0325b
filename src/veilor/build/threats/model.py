"""The threat model's source: threats/*.toml, read into claims with their
checks. Shapes: threats/schema.json.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import jsonschema

from veilor.build.errors import BuildError
from veilor.core import claims

FOLDER = "threats"
LAYERS = ("image", "boot", "attack", "usability")
ALONE = ("excused", "base", "compared")  # files of the folder that are no adversary


@dataclass(frozen=True)
class ImageCheck:
    """A check of the staged tree (or, where `built`, only of a built image).

    `kind` names one of build/threats/kinds/registry.py, and `arguments` are what it takes.
    """

    id: str
    kind: str
    arguments: dict
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

    def layer(self, name: str) -> tuple:
        """The checks at the layer NAME, one of LAYERS."""
        return getattr(self, name)

    def trials(self, layer: str) -> tuple[Trial, ...]:
        """The trials at LAYER, attack or usability."""
        return {"attack": self.attack, "usability": self.usability}[layer]


@dataclass(frozen=True)
class Adversary:
    """Who is meant, what they can do, and what is claimed. `tool` and `because`: the better tool for one out
    of scope.
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
class Model:
    """All of threats/. `base`: the base's named settings; `excused`: overlay files that are no control;
    `compared`: raw data.
    """

    adversaries: tuple[Adversary, ...]
    costs: tuple[dict, ...] = ()
    base: dict[str, dict] = field(default_factory=dict)
    excused: dict[str, str] = field(default_factory=dict)
    compared: dict = field(default_factory=dict)

    @property
    def claims(self) -> tuple[Claim, ...]:
        return tuple(claim for adversary in self.adversaries for claim in adversary.claims)


def read(path: Path) -> dict:
    """The TOML file at PATH. Raises BuildError."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BuildError(
            f"{path} cannot be used ({error}); mend it, nothing was made from the threat model"
        ) from None


def load_model(source_root: Path) -> Model:
    """The threat model of the repository at SOURCE_ROOT. Raises BuildError that names the file and what is
    wrong in it.
    """
    folder = source_root / FOLDER
    files = sorted(path for path in folder.glob("*.toml") if path.stem not in ALONE)
    if not files:
        raise BuildError(f"{folder} holds no adversary; stage from a whole clone of the repository")
    schema = json.loads((folder / "schema.json").read_text())
    adversaries, costs = [], []
    for path in files:
        data = read(path)
        problem = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(plain(data))), None)
        if problem:
            where = "/".join(map(str, problem.absolute_path)) or "the file"
            raise BuildError(f"{FOLDER}/{path.name}: {where}: {problem.message[:300]}")
        costs += [{**cost, "adversary": data["id"]} for cost in data.get("cost", [])]
        adversaries.append(adversary(data, path.name))
    base = {row["name"]: row for row in read(folder / "base.toml").get("setting", [])}
    excused = {row["path"]: row["because"] for row in read(folder / "excused.toml").get("excused", [])}
    return Model(
        tuple(sorted(adversaries, key=lambda one: (one.scope != "in", one.order))),
        tuple(costs),
        base,
        excused,
        read(folder / "compared.toml"),
    )


def plain(data):
    """DATA with dates as text, which JSON schemas can describe."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list):
        return [plain(value) for value in data]
    return data.isoformat() if isinstance(data, date) else data


def adversary(data: dict, file: str) -> Adversary:
    """The adversary in the valid DATA of FILE."""
    found = tuple(claim(row, data["id"]) for row in data.get("claim", []))
    return Adversary(
        data["id"],
        file,
        data["order"],
        data["scope"],
        data["title"],
        data["story"],
        data.get("tool", ""),
        data.get("because", ""),
        found,
    )


def claim(row: dict, adversary_id: str) -> Claim:
    """A claim with the checks it states, and those that its short lists (sysctl, karg, masked) stand for."""
    name = row["id"]
    image = [
        ImageCheck(
            f"{name}/{one.get('name', one['kind'])}",
            one["kind"],
            one.get("with", {}),
            one.get("built", False),
        )
        for one in row.get("image", [])
    ]
    boot = [
        claims.Check(
            f"{name}/{one.get('name', one['kind'])}",
            one["kind"],
            one.get("with", {}),
            one["mend"],
            one.get("capability", ""),
            one.get("when", ""),
            one.get("otherwise", ""),
        )
        for one in row.get("boot", [])
    ]
    for text in row.get("sysctl", []):
        key, want = text.split(" = ", 1)
        image.append(ImageCheck(f"{name}/{key}", "sysctl", {"key": key, "want": want}))
        boot.append(
            claims.Check(
                f"{name}/{key}",
                "sysctl",
                {"key": key, "want": want},
                f"look for a file in /etc/sysctl.d that sets {key}, remove the line and restart",
            )
        )
    for text in row.get("karg", []):
        image.append(ImageCheck(f"{name}/{text}", "karg", {"argument": text}))
        boot.append(
            claims.Check(
                f"{name}/{text}",
                "karg",
                {"argument": text},
                f"`rpm-ostree kargs --append-if-missing={text}`, or remove what overrides it, and restart",
            )
        )
    for unit in row.get("masked", []):
        image.append(ImageCheck(f"{name}/{unit}", "masked", {"path": f"etc/systemd/system/{unit}"}))
        boot.append(
            claims.Check(
                f"{name}/{unit}",
                "unit",
                {"name": unit, "load": ["masked"], "active": "inactive"},
                f"`sudo systemctl mask --now {unit}`",
            )
        )
    trials = {
        layer: tuple(Trial(one["run"], one["negative_control"]) for one in row.get(layer, []))
        for layer in ("attack", "usability")
    }
    return Claim(
        name,
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
        **trials,
    )


def render_claims(model: Model) -> str:
    """The text of /usr/lib/veilor/claims.json: what the machine's veilor-doctor knows of MODEL."""
    return claims.render(
        claims.Claim(one.id, one.adversary, one.says, one.state, one.boot) for one in model.claims
    )
