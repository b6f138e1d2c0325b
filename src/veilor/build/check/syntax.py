"""Every TOML, JSON and YAML file, by a parser of its language."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import yaml

from veilor.build.check.files import tracked
from veilor.build.check.finding import Finding

LEFT_OUT = ("tests/",)  # tests keep broken ones on purpose


def parse_toml(text: str) -> int:
    """0, or the line of the first error in the TOML TEXT."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+)", str(error))
        return int(place[1]) if place else text.count("\n") + 1
    return 0


def parse_json(text: str) -> int:
    """0, or the line of the first error in the JSON TEXT."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.lineno
    return 0


def parse_yaml(text: str) -> int:
    """0, or the line of the first error in the YAML TEXT."""
    try:
        yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return mark.line + 1 if mark else 1
    return 0


PARSERS = {".toml": parse_toml, ".json": parse_json, ".yml": parse_yaml, ".yaml": parse_yaml}


def check_syntax(root: Path, run) -> list[Finding]:
    """Each file with one of these endings can be read."""
    found = []
    for path in tracked(root):
        name = str(path.relative_to(root))
        if path.suffix in PARSERS and not name.startswith(LEFT_OUT):
            line = PARSERS[path.suffix](path.read_text())
            if line:
                found.append(
                    Finding(name, line, f"is no {path.suffix[1:].upper()} from this line on; correct it")
                )
    return found
