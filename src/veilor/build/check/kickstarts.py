"""The kickstarts, by Fedora 44's own parser and by our rules for what goes onto a medium."""

from __future__ import annotations

from pathlib import Path

from veilor.build.check.finding import Finding
from veilor.build.errors import BuildError
from veilor.build.kickstart import flatten_kickstart


def check_kickstarts(root: Path, run) -> list[Finding]:
    """kickstart/install.ks can go onto a medium."""
    path = root / "kickstart/install.ks"
    try:
        flatten_kickstart(path)
    except BuildError as error:
        return [Finding("kickstart/install.ks", 0, str(error).replace(f"{root}/", ""))]
    return []
