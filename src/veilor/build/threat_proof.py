"""Runs the image checks, and proves that they can fail: each control is taken away in a copy of the tree."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.stage import stage
from veilor.build.threat_checks import KINDS, Subject
from veilor.build.threats import ImageCheck, Model

KEPT = ("kickstart",)  # what a subject holds beside the staged tree


@contextmanager
def staged(source_root: Path) -> Iterator[Subject]:
    """The subject made of the repository at SOURCE_ROOT, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="veilor-threats-") as scratch:
        tree = stage(source_root, Path(scratch, "tree"))
        for name in KEPT:
            shutil.copytree(source_root / name, Path(scratch, "sources", name))
        yield Subject(tree, Path(scratch, "sources"))


@contextmanager
def copied(subject: Subject) -> Iterator[Subject]:
    """A copy of SUBJECT that may be spoilt."""
    with tempfile.TemporaryDirectory(prefix="veilor-mutation-") as scratch:
        for part, name in ((subject.tree, "tree"), (subject.sources, "sources")):
            shutil.copytree(part, Path(scratch, name), symlinks=True)
        yield Subject(Path(scratch, "tree"), Path(scratch, "sources"))


def complaint(subject: Subject, check: ImageCheck) -> str | None:
    """What CHECK has to say against SUBJECT; None when it holds."""
    return KINDS[check.kind][0](subject, **check.arguments)


def complaints(model: Model, subject: Subject, built: bool = False) -> dict[str, str | None]:
    """Each image check's complaint, or None; without BUILT those that need a built image are left out."""
    return {check.id: complaint(subject, check) for claim in model.claims for check in claim.image if built or not check.built}


def mutate(model: Model, subject: Subject) -> tuple[list[str], list[str]]:
    """(what was tried, what no check noticed): every mutation of every check on the staged tree, and every control removed.

    Raises BuildError when a check complains about the honest tree: then nothing could be proved.
    """
    wrong = [f"{name}: {what}" for name, what in complaints(model, subject).items() if what]
    if wrong:
        raise BuildError(f"the staged tree does not keep its claims ({wrong[0]}); mend that before proving the checks")
    tried, blind = [], []

    def attempt(title: str, change, checks: list[ImageCheck]) -> None:
        tried.append(title)
        with copied(subject) as other:
            change(other)
            if not any(complaint(other, check) for check in checks):
                blind.append(title)

    for claim in model.claims:
        checks = [check for check in claim.image if not check.built]
        for check in checks:
            for what, change in KINDS[check.kind][1](**check.arguments):
                attempt(f"{check.id}: {what}", change, [check])
        for control in claim.controls:
            path = staged_path(control)
            if path and claim.state in ("enforced", "opt-in"):
                attempt(f"{claim.id}: without {control}", lambda other, path=path: other.remove(path), checks)
    return tried, blind


def staged_path(control: str) -> str | None:
    """Where CONTROL lies in a subject; None for one that is no file of the overlay or kickstart."""
    path = control.split("#")[0]
    if path.startswith("overlay/"):
        return path.removeprefix("overlay/")
    return path if path == "kickstart/install.ks" else None
