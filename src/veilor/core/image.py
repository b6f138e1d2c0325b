"""Image references and digests as registries and bootc write them."""

import re
from typing import TypeGuard

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{{1,5}})?(?:/{_WORD})+:[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}"
)


def is_digest(text: object) -> TypeGuard[str]:
    """Whether TEXT is a sha256 digest in full."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def short(digest: str | None) -> str:
    """DIGEST as people see it: its first twelve hex digits."""
    return (digest or "").removeprefix("sha256:")[:12] or "unknown"


def is_reference(text: str) -> bool:
    """Whether TEXT is REGISTRY[:PORT]/REPOSITORY:TAG."""
    return len(text) < 400 and _REFERENCE.fullmatch(text) is not None
