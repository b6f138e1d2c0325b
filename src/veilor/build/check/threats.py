"""The threat model keeps its rules, the staged tree what it claims of it, and stale results are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from veilor.build.check.finding import Finding, Remark
from veilor.build.errors import BuildError
from veilor.build.threats import image, rules
from veilor.build.threats.model import FOLDER, load_model
from veilor.build.threats.results import RESULTS, load_results, stale


def check_threats(root: Path, run: Callable[..., Any] | None) -> list[Finding]:
    """The rules of threats/, and every image check on the staged tree.

    That each check can fail is proved by `veilor threats --mutate`.
    """
    try:
        model = load_model(root)
        wrong = rules.problems(root, model)
        with image.staged(root) as subject:
            found = image.image_problems(model, subject)
        wrong += [f"{name}: {what}" for name, what in found.items() if what]
    except BuildError as error:
        wrong = [str(error)]
    return [Finding(FOLDER, 0, what) for what in wrong]


def check_results(root: Path, run: Callable[..., Any] | None) -> list[Finding]:
    """Results of rehearsals that no longer count, since a control, a check or a phase has changed.

    They are a remark: such a result is true of the sources that it was shown with.
    """
    try:
        model, results = load_model(root), load_results(root)
        old = stale(root, model, results)
    except BuildError as error:
        return [Finding(RESULTS, 0, str(error))]
    if not old:
        return []
    named = ", ".join(sorted({one.claim for one in old}))
    said = (
        f"{len(old)} of {len(results)} results are stale, since what they rest on has changed, and count as "
        f"not shown: of {named}; `veilor threats --matrix` lists them, a new rehearsal shows them again"
    )
    return [Remark(RESULTS, 0, said)]
