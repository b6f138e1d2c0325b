"""Runs the image checks, and proves that they can fail: each control is removed in a copy of the tree."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from veilor.build.errors import BuildError
from veilor.build.stage import stage
from veilor.build.threats.controls import Control, parse_control, without
from veilor.build.threats.kinds.registry import KINDS
from veilor.build.threats.kinds.subject import Subject
from veilor.build.threats.model import ImageCheck, Model

KEPT = ("kickstart",)  # what a subject holds beside the staged tree


@contextmanager
def staged(source_root: Path) -> Iterator[Subject]:
    """The subject made of the repository at SOURCE_ROOT, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="veilor-threats-") as scratch:
        tree = stage(source_root, Path(scratch, "tree"))
        for name in KEPT:
            shutil.copytree(source_root / name, Path(scratch, "sources", name))
        yield Subject(tree, Path(scratch, "sources"))


def subject(source_root: Path, tree: Path | None = None) -> AbstractContextManager[Subject]:
    """What the image checks look at: the files in TREE, of a built image, or else the tree staged from
    SOURCE_ROOT.
    """
    if tree and not (tree / "usr/lib/veilor/product.toml").is_file():
        raise BuildError(
            f"{tree} holds no veilor-os; name the root of a built image's files, or leave --tree out"
        )
    return nullcontext(Subject(tree.absolute(), source_root)) if tree else staged(source_root)


class Copy:
    """A copy of a subject, without our programs' code, that is spoilt and made whole again.

    A file is read again only where its stamp has changed, or is so young that a change within one tick of the
    file system's clock would not show in it.
    """

    def __init__(self, honest: Subject, scratch: Path) -> None:
        for part, name in ((honest.tree, "tree"), (honest.sources, "sources")):
            shutil.copytree(
                part, scratch / name, symlinks=True, ignore=shutil.ignore_patterns("device", "core")
            )
        self.subject, self.root = Subject(scratch / "tree", scratch / "sources"), scratch
        self.stamps = self.read_stamps()
        self.honest = {path: read_file(path) for path in self.stamps}
        self.young = set(self.stamps)

    def read_stamps(self) -> dict[str, Stamp]:
        """The stamp of each file and link, by path."""
        found, folders = {}, [str(self.root)]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        found[entry.path] = stamp(entry.stat(follow_symlinks=False))
        return found

    def restore(self) -> None:
        """Undo what a mutation did."""
        now = self.read_stamps()
        different = {
            path for path in now.keys() | self.stamps.keys() if now.get(path) != self.stamps.get(path)
        }
        for path in different | self.young:
            wanted = self.honest.get(path)
            if wanted != (read_file(path) if path in now else None):
                Path(path).unlink(missing_ok=True)
                if wanted:
                    write_file(path, *wanted)
            if wanted:
                self.stamps[path] = stamp(os.lstat(path))
        grown = time.time_ns() - TICK
        self.young = {path for path in different | self.young if path in self.stamps}
        self.young = {path for path in self.young if self.stamps[path].changed > grown}


class Stamp(NamedTuple):
    """What the file system says of a file: something in it changes with any write. Times in nanoseconds."""

    mode: int
    inode: int
    size: int
    modified: int
    changed: int


TICK = 100_000_000  # nanoseconds; more than any file system's clock takes from one step to the next


def stamp(info: os.stat_result) -> Stamp:
    return Stamp(info.st_mode, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def read_file(path: str) -> tuple[str | bytes, int]:
    """The bytes of the file at PATH, or its target where it is a link; and its mode."""
    mode = os.lstat(path).st_mode
    return (os.readlink(path) if stat.S_ISLNK(mode) else Path(path).read_bytes()), mode


def write_file(path: str, content: str | bytes, mode: int) -> None:
    """Write to PATH what `read_file` returned."""
    if isinstance(content, str):
        os.symlink(content, path)
        return
    Path(path).write_bytes(content)
    os.chmod(path, stat.S_IMODE(mode))


def image_problem(subject: Subject, check: ImageCheck) -> str | None:
    """What CHECK has to say against SUBJECT; None when it holds."""
    return KINDS[check.kind].check(subject, **check.arguments)


def image_problems(model: Model, subject: Subject, built: bool = False) -> dict[str, str | None]:
    """The problem that each image check reports, or None.

    Checks that need a built image are left out unless BUILT.
    """
    return {
        check.id: image_problem(subject, check)
        for claim in model.claims
        for check in claim.image
        if built or not check.built
    }


def mutate(model: Model, subject: Subject) -> tuple[list[str], list[str]]:
    """(what was tried, what no check noticed): every mutation of every check on the staged tree, and every
    control removed.

    Raises BuildError when a check reports a problem of the honest tree: then nothing could be proved.
    """
    wrong = [f"{name}: {what}" for name, what in image_problems(model, subject).items() if what]
    if wrong:
        raise BuildError(
            f"the staged tree does not keep its claims ({wrong[0]}); fix that before proving the checks"
        )
    tried, blind = [], []

    with tempfile.TemporaryDirectory(prefix="veilor-mutation-") as scratch:
        copy = Copy(subject, Path(scratch))
        for title, change, checks in attempts(model):
            tried.append(title)
            change(copy.subject)
            if not any(image_problem(copy.subject, check) for check in checks):
                blind.append(title)
            copy.restore()
    return tried, blind


def attempts(model: Model) -> Iterator[tuple[str, Callable[[Subject], None], list[ImageCheck]]]:
    """What is tried: a title, the change, and the checks of which one has to report a problem."""
    for claim in model.claims:
        checks = [check for check in claim.image if not check.built]
        for check in checks:
            yield from (
                (f"{check.id}: {what}", change, [check])
                for what, change in KINDS[check.kind].mutations(**check.arguments)
            )
        for control in map(parse_control, claim.controls):
            path = staged_path(control)
            if path and claim.state in ("enforced", "opt-in"):
                yield f"{claim.id}: without {control}", removal(control, path), checks


def staged_path(control: Control) -> str | None:
    """Where CONTROL lies in a subject; None for one that is no file of the overlay or kickstart."""
    if control.path.startswith("overlay/"):
        return control.path.removeprefix("overlay/")
    is_kickstart = control.path.startswith("kickstart/") and control.path.endswith(".ks")
    return control.path if is_kickstart else None


def removal(control: Control, path: str) -> Callable[[Subject], None]:
    """What removes CONTROL, which lies at PATH in a subject: the file, or what it says of the key."""

    def remove(subject: Subject) -> None:
        if control.key:
            subject.write(path, without(control, subject.text(path)))
        else:
            subject.remove(path)

    return remove
