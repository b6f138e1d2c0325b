"""The recipe: by BlueBuild's published schemas, by the bluebuild program, and against the files it names."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from veilor.build.check.finding import LIMIT, CannotRun, Finding, find_own, line_of
from veilor.build.check.image_tree import SCRIPTS, steps
from veilor.build.check.programs import SCHEMAS

RECIPE = "bluebuild/recipe.yml"
ASSUMED = "bluebuild/files/base/assumed.toml"
RESTS_ON = "# Rests on: "
NOT_THERE = "the recipe names it, and it is not there; add it, or correct the recipe"
# What the program takes and its crate's copy of the schemas is too old for.
# https://blue-build.org/reference/recipe/
NEWER_KEYS = {"cosign-version": {"type": "string"}, "nushell-version": {"type": "string"}}
STRINGS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
NEWER_MODULES = {
    "dnf": {  # https://blue-build.org/reference/modules/dnf/
        "type": "object",
        "required": ["type"],
        "additionalProperties": False,
        "properties": {
            "type": {"const": "dnf"},
            "no-cache": {"type": "boolean"},
            "repos": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "cleanup": {"type": "boolean"},
                    "files": STRINGS,
                    "copr": STRINGS,
                    "keys": STRINGS,
                    "nonfree": {"type": "string"},
                },
            },
            "install": {
                "type": "object",
                "additionalProperties": False,
                "required": ["packages"],
                "properties": {
                    "packages": STRINGS,
                    "install-weak-deps": {"type": "boolean"},
                    "skip-unavailable": {"type": "boolean"},
                    "allow-erasing": {"type": "boolean"},
                },
            },
            "remove": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"packages": STRINGS, "auto-remove": {"type": "boolean"}},
            },
        },
    }
}
LOCAL = {
    "type": "object",
    "required": ["type", "source"],
    "properties": {"type": {"type": "string"}, "source": {"const": "local"}},
}


def line_at(text: str, path: list) -> int:
    """The line of TEXT (YAML) at which the value under PATH (keys and indexes) begins."""
    node = yaml.compose(text)
    for step in path:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == str(step)), node)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
    return node.start_mark.line + 1


def validate(name: str, text: str, value: Any, schema: dict, path: list) -> Iterator[Finding]:
    """A finding for everything in VALUE, which stands under PATH of the file NAME, that SCHEMA refuses."""
    for error in Draft202012Validator(schema).iter_errors(value):
        yield Finding(name, line_at(text, [*path, *error.absolute_path]), error.message[:300])


def module_schema(schemas: Path, module: dict) -> dict:
    """The schema for MODULE. Raises KeyError when BlueBuild has no such module and it is not one of ours."""
    kind = str(module.get("type", "")).split("@")[0]
    if "source" in module:
        return LOCAL
    if kind in NEWER_MODULES:
        return NEWER_MODULES[kind]
    path = schemas / f"modules/{kind}-latest.json"
    if not kind or not path.is_file():
        raise KeyError(
            f"BlueBuild has no module {kind or 'without a type'}; a module of our own says `source: local`"
        )
    return json.loads(path.read_text())


def check_schema(root: Path, run) -> list[Finding]:
    """Recipe and fragments by the schemas that BlueBuild publishes."""
    if not SCHEMAS.is_dir():
        raise CannotRun("BlueBuild's schemas are not there; `make checkers` fetches them")
    found: list[Finding] = []
    for file in [root / RECIPE, *sorted((root / "bluebuild/recipes").glob("[0-9]*.yml"))]:
        name, text = str(file.relative_to(root)), file.read_text()
        try:
            data = yaml.safe_load(text)
            modules = data["modules"]
        except (yaml.YAMLError, KeyError, TypeError) as error:
            mark = getattr(error, "problem_mark", None)
            found.append(Finding(name, mark.line + 1 if mark else 1, f"no recipe with modules: {error}"))
            continue
        if name == RECIPE:
            schema = json.loads((SCHEMAS / "recipe-v1.json").read_text())
            schema["properties"] |= NEWER_KEYS
            found += validate(name, text, {**data, "modules": []}, schema, [])
        for number, module in enumerate(modules):
            path = ["modules", number]
            if "from-file" in module:
                if not (root / "bluebuild/recipes" / module["from-file"]).is_file():
                    found.append(
                        Finding(
                            name, line_at(text, path), f"bluebuild/recipes/{module['from-file']} is not there"
                        )
                    )
                continue
            try:
                found += validate(name, text, module, module_schema(SCHEMAS, module), path)
            except KeyError as error:
                found.append(Finding(name, line_at(text, path), error.args[0]))
    return found


def check_files(root: Path, run) -> list[Finding]:
    """What the recipe names is there, and nothing lies there that it doesn't name."""
    modules, found = list(steps(root / "bluebuild")), []
    named = {name for module in modules for name in module.get("scripts", [])}
    there = {path.name for path in (root / SCRIPTS).iterdir()}
    found += [
        Finding(
            f"{SCRIPTS}/{name}",
            0,
            "the recipe never runs it; name it in a fragment of bluebuild/recipes, or remove it",
        )
        for name in there - named
    ]
    found += [Finding(f"{SCRIPTS}/{name}", 0, NOT_THERE) for name in named - there]
    text = (root / RECIPE).read_text()
    for fragment in sorted((root / "bluebuild/recipes").glob("[0-9]*.yml")):
        if not line_of(text, f"from-file: {fragment.name}"):
            found.append(
                Finding(
                    f"bluebuild/recipes/{fragment.name}",
                    0,
                    "no recipe includes it; name it in bluebuild/recipe.yml, or remove it",
                )
            )
    for module in modules:
        for name in module.get("repos", {}).get("files", []):
            if not (root / "bluebuild/files/dnf" / name).is_file():
                found.append(Finding(f"bluebuild/files/dnf/{name}", 0, NOT_THERE))
        if (
            module.get("source") == "local"
            and not (root / f"bluebuild/modules/{module['type']}/{module['type']}.sh").is_file()
        ):
            found.append(
                Finding(
                    f"bluebuild/modules/{module['type']}",
                    0,
                    NOT_THERE,
                )
            )
    return found


def check_assumed(root: Path, run) -> list[Finding]:
    """What the scripts rest on is what bluebuild/files/base/assumed.toml lists of the base."""
    rows = {row["id"] for row in tomllib.loads((root / ASSUMED).read_text())["row"]}
    found, named = [], set()
    for path in sorted((root / SCRIPTS).iterdir()):
        for line, text in enumerate(path.read_text().splitlines(), 1):
            if not text.startswith(RESTS_ON):
                continue
            names = set(text.removeprefix(RESTS_ON).split())
            named |= names
            found += [
                Finding(
                    f"{SCRIPTS}/{path.name}",
                    line,
                    f"{ASSUMED} has no row {name}; add it, or correct the name",
                )
                for name in sorted(names - rows)
            ]
    found += [
        Finding(
            ASSUMED, 0, f"no script says that it rests on {name}; remove the row, or name it in the script"
        )
        for name in sorted(rows - named)
    ]
    return found


def check_bluebuild(root: Path, run) -> list[Finding]:
    """bluebuild itself reads the recipe as we do, started by scripts/build-image and by its GitHub action.

    It asks for a container engine before it reads anything; a stand-in answers with a version, and is asked
    no more.
    """
    program, wanted, found = find_own("bluebuild"), list(steps(root / "bluebuild")), []
    for path in ("recipe.yml", "recipes/recipe.yml"):
        env = {
            **os.environ,
            "PATH": f"{root}/stand-ins/image/engine:{os.environ.get('PATH', os.defpath)}",
            "NO_COLOR": "1",
        }
        argv = [str(program), "generate", "--skip-validation", "--display-full-recipe", path]
        done = subprocess.run(
            argv,
            cwd=root / "bluebuild",
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
        )
        try:
            understood = yaml.safe_load(done.stdout)["modules"] if done.returncode == 0 else None
        except (yaml.YAMLError, KeyError, TypeError):
            understood = None
        if understood is None:
            said = " ".join((done.stderr + done.stdout).split()).partition("Try running with")[0]
            found.append(Finding(RECIPE, 0, f"bluebuild cannot read it as {path}: {said[:300]}"))
        elif understood != wanted:
            found.append(Finding(RECIPE, 0, f"bluebuild understands it differently as {path}"))
    return found
