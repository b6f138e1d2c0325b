"""The threat model keeps its rules, and the staged tree what it claims of it."""

from __future__ import annotations

from pathlib import Path

from veilor.build.check.finding import Finding
from veilor.build.errors import BuildError
from veilor.build.threats import proof, rules
from veilor.build.threats.model import FOLDER, load_model


def check_threats(root: Path, run) -> list[Finding]:
    """Rules of threats/ and every image check on the staged tree. That each check can fail is proved by
    `veilor threats --mutate`.
    """
    try:
        model = load_model(root)
        wrong = rules.problems(root, model)
        with proof.staged(root) as subject:
            wrong += [
                f"{name}: {what}" for name, what in proof.image_problems(model, subject).items() if what
            ]
    except BuildError as error:
        wrong = [str(error)]
    return [Finding(FOLDER, 0, what) for what in wrong]
