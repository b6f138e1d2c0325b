"""The pages that are generated from data."""

from __future__ import annotations

from pathlib import Path

from veilor.build import docs
from veilor.build.check.finding import Finding


def check_pages(root: Path, run) -> list[Finding]:
    """Each generated page is what its data make of it."""
    return [Finding(page.path, page.line, page.advice) for page in docs.stale_pages(root)]
