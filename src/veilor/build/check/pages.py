"""The pages that are generated from data."""

from __future__ import annotations

from pathlib import Path

from veilor.build import docs
from veilor.build.check.finding import Finding
from veilor.build.errors import BuildError


def check_pages(root: Path, run) -> list[Finding]:
    """Each generated page says what its data say."""
    try:
        docs.check_pages(root)
    except (BuildError, OSError) as error:
        return [Finding(docs.VERIFIED, 0, str(error))]
    return []
