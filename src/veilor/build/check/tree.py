"""The staged tree: it can be made from this clone."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from veilor.build.check.finding import Finding
from veilor.build.errors import BuildError
from veilor.build.stage import stage


def check_staged_tree(root: Path, run) -> list[Finding]:
    """product.toml, overlay and public keys make a staged tree."""
    with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
        try:
            stage(root, Path(scratch, "tree"))
        except BuildError as error:
            text = str(error).replace(f"{root}/", "")
            named = re.search(r"\b(?:overlay|src|bluebuild/keys)\b[\w./-]*|product\.toml", text)
            return [Finding(named[0] if named else "product.toml", 0, text)]
    return []
