"""Every name, address, tag and version against product.toml, and what must not be there any more."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from veilor.build.builders import FILE as BUILDERS
from veilor.build.builders import read_builders
from veilor.build.check import fedora
from veilor.build.check.files import texts
from veilor.build.check.finding import Finding, Notice, line_of, lines_matching
from veilor.build.errors import BuildError
from veilor.build.readiness import KEYS, PIN, placeholder_keys, read_pin
from veilor.core.product import load

# Tests use names that must be wrong; the lock file has none of ours.
LEFT_OUT = ("tests/", "requirements.lock", "stand-ins/rust/")
OTHER_TAGS = re.compile(r"(?:candidate|sha256)-?.*")  # of images that no machine follows, and of signatures
MUTABLE = ("kickstart/veilor-os.ks", ".github/workflows/livecd.yml", "scripts/build-livecd")


def check_references(root: Path, run) -> list[Finding]:
    """Image references and addresses of the project are product.toml's; a tag is its Fedora number."""
    product, found = load(root / "product.toml"), []
    owner = product.repository.split("/")[0]
    repositories = (product.image_repo, product.channel_repo, product.base_image)
    owners = "|".join(re.escape(name.split("/")[1]) for name in (product.image_repo, product.base_image))
    images = rf"{re.escape(product.registry)}/(?:{owners})/[\w./-]*\w(?::[\w.-]*\w)?"
    home = re.sub(r"^https://", "", product.urls["home"])
    for name, text in texts(root, LEFT_OUT):
        for number, hit in lines_matching(text, images):
            repository, _, tag = hit[0].partition(":")
            if repository not in repositories:
                near = [known for known in repositories if known.split("/")[1] == repository.split("/")[1]]
                said = f"{repository} is not product.toml's; write {' or '.join(near)}"
                found.append(Finding(name, number, said))
                continue
            if not tag or OTHER_TAGS.fullmatch(tag) or name.startswith(fedora.LEFT_OUT):
                continue
            if tag != product.version:
                said = f"{hit[0]} has another tag than product.toml's; write {repository}:{product.version}"
                found.append(Finding(name, number, said))
        for number, hit in lines_matching(text, rf"github\.com/{re.escape(owner)}/[\w.-]+"):
            if hit[0].rstrip(".") != home:
                found.append(Finding(name, number, f"{hit[0]} is not product.toml's; write {home}"))
    return found


def check_recipe_names(root: Path, run) -> list[Finding]:
    """The recipe is for product.toml's image and base."""
    product, name = load(root / "product.toml"), "bluebuild/recipe.yml"
    text = (root / name).read_text()
    recipe = yaml.safe_load(text)
    wanted = {
        "name": product.repository.split("/")[-1],
        "base-image": product.base_image,
        "image-version": product.version,
    }
    found = []
    for key, value in wanted.items():
        if str(recipe.get(key)) != value:
            said = (
                f"{key} is {recipe.get(key)!r}, and product.toml says {value!r}; write {key}: {quoted(value)}"
            )
            found.append(Finding(name, line_of(text, f"{key}:"), said))
    return found


def quoted(value: str) -> str:
    """VALUE as it is written in YAML: a number between quotes, since it is a text."""
    return f'"{value}"' if value.isdecimal() else value


def check_unfinished(root: Path, run) -> list[Finding]:
    """What a release has to refuse: keys that nobody holds, a base that nobody verified."""
    product = load(root / "product.toml")
    found: list[Finding] = [
        Notice(f"{KEYS}/{name}", 0, "a placeholder: nobody can sign with it; make keys, docs/RELEASING.md")
        for name in placeholder_keys(root / KEYS, product)
    ]
    try:
        pin = read_pin(root)
    except BuildError as error:
        return [*found, Finding(PIN, line_of((root / PIN).read_text(), "digest = "), str(error))]
    if not pin.digest:
        found.append(
            Notice(
                PIN,
                line_of((root / PIN).read_text(), "digest = "),
                "the base is not pinned yet: veilor base pin",
            )
        )
    try:
        builders = read_builders(root)
    except BuildError as error:
        return [*found, Finding(BUILDERS, 0, str(error))]
    found += [
        Notice(
            BUILDERS,
            line_of((root / BUILDERS).read_text(), one.name),
            f"{one.name} is not pinned yet: python -m veilor.build.builders pin",
        )
        for one in builders
        if not one.digest
    ]
    if not (root / "bluebuild" / pin.key).is_file():
        found.append(
            Notice(
                f"bluebuild/{pin.key}",
                0,
                "the key that vouches for the base is not there yet: docs/RELEASING.md",
            )
        )
    return found


def check_mutable_is_gone(root: Path, run) -> list[Finding]:
    """From version 1.0 on there is no mutable fallback any more."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if int(version.split(".")[0]) < 1:
        return []
    return [
        Finding(name, 0, f"version {version} has no mutable fallback; remove it")
        for name in MUTABLE
        if (root / name).exists()
    ]
