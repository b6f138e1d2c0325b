"""The kickstarts, by the parser of product.toml's Fedora and by our rules for what goes onto a medium."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from veilor.build import facts, image_builder
from veilor.build.check.finding import Finding
from veilor.build.docs import first_difference
from veilor.build.errors import BuildError
from veilor.build.kickstart import CHECKS, FALLBACK, as_read, check, flatten_lines, product_fedora

INSTALL, MUTABLE = "kickstart/install.ks", "kickstart/veilor-os.ks"


def check_kickstarts(root: Path, run: Callable | None) -> list[Finding]:
    """install.ks can go onto a medium, and the mutable fallback keeps every rule that it can."""
    found = judge(root, INSTALL, CHECKS)
    if (root / MUTABLE).exists():
        found += judge(root, MUTABLE, FALLBACK)
    return found


def judge(root: Path, name: str, checks: tuple[Callable, ...]) -> list[Finding]:
    """What is wrong with the kickstart NAME; a parser's error with the file and line that it comes from."""
    try:
        lines = flatten_lines(root / name)
    except BuildError as error:
        return [Finding(name, 0, str(error).replace(f"{root}/", ""))]
    text, found = "".join(f"{line}\n" for _, _, line in lines), []
    lines = [lines[number] for number in as_read(text)]
    try:
        problems = check(text, checks, product_fedora(root))
    except BuildError as error:
        return [Finding(facts.FILE, 0, str(error))]
    for problem in problems:
        at = re.search(r"line (\d+)", problem) if problem.startswith("parser:") else None
        place = lines[int(at[1]) - 1] if at and 1 <= int(at[1]) <= len(lines) else None
        found.append(
            Finding(str(place[0].relative_to(root)), place[1], problem)
            if place
            else Finding(name, 0, problem)
        )
    return found


def check_installer_iso(root: Path, run: Callable | None) -> list[Finding]:
    """installer-iso.toml is TOML and what install.ks makes of it."""
    path = root / image_builder.FILE
    try:
        text = path.read_text(encoding="utf-8")
        tomllib.loads(text)
        wanted = image_builder.render(root)
    except OSError as error:
        return [Finding(image_builder.FILE, 0, f"it can't be read ({error.strerror}): run `make docs`")]
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+)", str(error))
        return [
            Finding(image_builder.FILE, int(at[1]) if at else 0, f"it is no TOML ({error}): run `make docs`")
        ]
    except BuildError as error:
        return [Finding(INSTALL, 0, str(error).replace(f"{root}/", ""))]
    line = first_difference(text, wanted)
    if not line:
        return []
    return [
        Finding(
            image_builder.FILE, line, f"{image_builder.FILE} is out of date: run `make docs` and commit it"
        )
    ]
