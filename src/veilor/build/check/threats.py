"""The threat model keeps its rules, and the staged tree what it claims of it."""

from __future__ import annotations

from pathlib import Path

from veilor.build import threat_proof, threat_rules, threats
from veilor.build.check.finding import Finding
from veilor.build.errors import BuildError


def check_threats(root: Path, run) -> list[Finding]:
    """Rules of threats/ and every image check on the staged tree. That each check can fail is proved by
    `veilor threats --mutate`.
    """
    try:
        model = threats.load(root)
        wrong = threat_rules.problems(root, model)
        with threat_proof.staged(root) as subject:
            wrong += [
                f"{name}: {what}" for name, what in threat_proof.complaints(model, subject).items() if what
            ]
    except BuildError as error:
        wrong = [str(error)]
    return [Finding(threats.FOLDER, 0, what) for what in wrong]
