"""The facts of product.toml by name, for the scripts of a release: `veilor product FACT`.

No script of ours keeps a Fedora number of its own: it asks here. Where a page has to hold the number,
`veilor check` compares it with product.toml.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.core.product import Product, parse

FILE = "product.toml"
FEDORA = re.compile(r"[1-9]\d")
RELEASES = "https://download.fedoraproject.org/pub/fedora/linux/releases"


@dataclass(frozen=True)
class Facts:
    """What the scripts need to know. A reference has registry and repository; a file name has no folder."""

    fedora: str  # "44"
    tag: str  # what machines follow
    image: str
    channel: str
    base: str  # with its tag
    iso: str
    mutable_iso: str
    medium: str  # the file name of Fedora's netinst, and where it lies
    medium_folder: str
    medium_checksums: str


NAMES = tuple(field.name.replace("_", "-") for field in fields(Facts))


def fedora_number(product: Product) -> str:
    """The number of the Fedora that PRODUCT stands on, such as "44". Raises BuildError when it is none."""
    if not FEDORA.fullmatch(product.version):
        raise BuildError(
            f"{FILE}: [product] version is {product.version!r}, which is no number of a Fedora release; "
            'write it as in version = "44"'
        )
    return product.version


def load_facts(source_root: Path) -> Facts:
    """The facts of the clone at SOURCE_ROOT. Raises BuildError when its product.toml cannot be used."""
    try:
        text = (source_root / FILE).read_text(encoding="utf-8")
        product = parse(text)
    except (OSError, ValueError) as error:
        raise BuildError(f"{FILE} cannot be used ({error}); correct it, or restore it from git") from None
    fedora = fedora_number(product)
    folder = f"{RELEASES}/{fedora}/Everything/x86_64/iso"
    medium = tomllib.loads(text).get("medium")
    compose = medium.get("compose") if isinstance(medium, dict) else None
    if not isinstance(compose, str) or not re.fullmatch(rf"{fedora}-\d+\.\d+", compose):
        raise BuildError(
            f"{FILE}: [medium] compose is {compose!r}, which is not the end of the name of Fedora {fedora}'s "
            f'netinst, such as "{fedora}-1.7"; see {folder}/'
        )
    return Facts(
        fedora=fedora,
        tag=product.tag,
        image=product.image_repo,
        channel=product.channel_repo,
        base=product.base_ref,
        iso=f"{product.name}-{fedora}.iso",
        mutable_iso=f"{product.name}-{fedora}-mutable.iso",
        medium=f"Fedora-Everything-netinst-x86_64-{compose}.iso",
        medium_folder=folder,
        medium_checksums=f"Fedora-Everything-{compose}-x86_64-CHECKSUM",
    )


def fact(source_root: Path, name: str) -> str:
    """The one fact NAME, one of NAMES, of the clone at SOURCE_ROOT. Raises BuildError as `load_facts`."""
    return str(getattr(load_facts(source_root), name.replace("-", "_")))
