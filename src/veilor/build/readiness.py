"""What has to be real before anything is published: keys that somebody holds, and a verified base."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from veilor.build.errors import BuildError
from veilor.core.product import Product, load

KEYS = "bluebuild/keys"
PIN = "bluebuild/base.toml"
NOT_PINNED = "not pinned yet"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# SHA-256 of the public keys (DER) that this repository began with. Their private halves were never kept.
PLACEHOLDERS = frozenset(
    {
        "b05410252eeb0d0f05bbd59794e7f85f817f6bd67d3d614cfb68fdcc40c176b9",
        "2f1c8d8ad8aa9888d68f92e6df7be4abd586617e064c33d5703d9a9dbd1fb74b",
        "b7d68c9ac20a52bf5583bf8695171e5deeed82be38b85068eb7b9aefcafe6ec5",
        "3f07d3825a193ce8349fa721fb84163add44b461ad17e16ed73fd61ae204c624",
    }
)


@dataclass(frozen=True)
class Pin:
    """bluebuild/base.toml: the base by digest ("" while it is not pinned), and who vouches for it."""

    digest: str
    tag: str
    key: str
    source: str
    branch: str


def read_pin(root: Path) -> Pin:
    """The pin of the clone at ROOT. Raises BuildError when the file cannot be used."""
    try:
        pin = Pin(**tomllib.loads((root / PIN).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise BuildError(f"{PIN} cannot be used ({error}); restore it from git") from None
    if pin.digest == NOT_PINNED:
        return replace(pin, digest="")
    if not DIGEST.fullmatch(pin.digest):
        raise BuildError(f"{PIN} names {pin.digest!r}, which is no digest; write it by `veilor base pin`")
    return pin


def fingerprint(key: bytes) -> str:
    """SHA-256 of the public KEY (PEM) in its DER form. Raises ValueError when it is none."""
    return hashlib.sha256(
        load_pem_public_key(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def is_placeholder(path: Path) -> bool:
    """Whether the key at PATH is one that this repository began with; False for a file without a key."""
    try:
        return fingerprint(path.read_bytes()) in PLACEHOLDERS
    except (OSError, ValueError):
        return False  # `stage` says what is wrong with it


def placeholder_keys(folder: Path, product: Product) -> list[str]:
    """The names of PRODUCT's keys in FOLDER that are placeholders."""
    return [name for name in (*product.image_keys, *product.channel_keys) if is_placeholder(folder / name)]


def refuse_placeholders(root: Path, folder: Path | None = None) -> None:
    """Raise BuildError while FOLDER (default: the committed keys) holds a key that nobody can sign with."""
    found = placeholder_keys(folder or root / KEYS, load(root / "product.toml"))
    if found:
        raise BuildError(
            f"{', '.join(found)} in {folder or KEYS}: placeholders, whose private halves nobody has, so no "
            "machine could be "
            "updated; nothing was done. Make keys first: docs/RELEASING.md"
        )
