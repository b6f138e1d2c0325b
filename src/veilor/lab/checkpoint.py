"""Checkpoints: sets of files (disk, firmware variables, registry store, keys) kept under a name and a key.

The key says everything that went in, so a checkpoint that is found is the right one. Several rehearsals share
one store: what one of them has found or saved is held (shared flock) until it closes, and is not pruned
meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from veilor.lab.cache import KEY_CHARS, MANIFEST, print_progress, remove_tree, write_atomic
from veilor.lab.verdict import LabFault, UsageError

COPY_TIMEOUT = 1800.0  # seconds, for one file or tree


class NoCheckpoint(UsageError):
    """There is no whole checkpoint under that name and key."""


class Checkpoints:
    """The checkpoints of one SCENARIO under ROOT; of each name the KEEP latest stay."""

    def __init__(
        self, root: Path, scenario: str, keep: int = 2, print_line: Callable[[str], None] = print_progress
    ) -> None:
        self.folder = root / scenario
        self.keep = keep
        self._print_line = print_line
        self._held: dict[Path, IO[bytes]] = {}

    def save(
        self, name: str, key: str, files: Mapping[str, Path], meta: Mapping[str, Any] | None = None
    ) -> Path:
        """Copy FILES (name in the checkpoint: file or folder) and META; the checkpoint's folder.

        The sources must not be written to meanwhile. Raises LabFault when copying fails, most often for want
        of space.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        entry = self._entry(name, key)
        temp = Path(tempfile.mkdtemp(prefix=f".tmp-{os.getpid()}-", dir=self.folder))
        guard = self._lock(temp, fcntl.LOCK_EX)  # says that this one is being made
        try:
            for label, source in files.items():
                copy_tree(source, temp / label)
            manifest = {
                "schema": 1,
                "name": name,
                "key": key,
                "meta": dict(meta or {}),
                "files": _describe(temp),
            }
            write_atomic(temp / MANIFEST, json.dumps(manifest, indent=1))
            self._replace(entry, temp)
        finally:
            remove_tree(temp)
            self._unlock(temp, guard)
        self.prune(name)
        return entry

    def _replace(self, entry: Path, temp: Path) -> None:
        """Rename TEMP to ENTRY and hold it.

        An ENTRY that another rehearsal holds stays: it came from the same inputs.
        """
        file = self._held.pop(entry, None) or self._open(entry)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            remove_tree(entry)
            temp.rename(entry)
        fcntl.flock(file, fcntl.LOCK_SH)
        self._held[entry] = file

    def find(self, name: str, key: str) -> Path | None:
        """The folder of the checkpoint with its files, held until close(); None when there is none.

        A damaged one (sizes or times not as they were saved) is removed, which is printed.
        """
        entry = self._entry(name, key)
        if not entry.is_dir():
            return None
        self._hold(entry)
        if not entry.is_dir():
            return None
        try:
            manifest = json.loads((entry / MANIFEST).read_text())
            sound = manifest["key"] == key and manifest["files"] == _describe(entry)
        except (OSError, ValueError, KeyError, TypeError):
            sound = False
        if sound:
            return entry
        self._print_line(f"checkpoint {name} is damaged; removed")
        remove_tree(entry)
        return None

    def get(self, name: str, key: str) -> Path:
        """As find(), but raises NoCheckpoint."""
        entry = self.find(name, key)
        if entry is None:
            raise NoCheckpoint(f"there is no checkpoint {name} for these inputs")
        return entry

    def meta(self, entry: Path) -> dict[str, Any]:
        """What was saved as META with the checkpoint in folder ENTRY."""
        meta: dict[str, Any] = json.loads((entry / MANIFEST).read_text())["meta"]
        return meta

    def restore(self, name: str, key: str, dest: Path) -> None:
        """Copy the checkpoint's files to the folder DEST. Raises NoCheckpoint or LabFault."""
        entry = self.get(name, key)
        dest.mkdir(parents=True, exist_ok=True)
        for source in sorted(entry.iterdir()):
            if source.name != MANIFEST:
                copy_tree(source, dest / source.name)

    def prune(self, name: str) -> None:
        """Remove all but the latest checkpoints called NAME, leaving those that somebody holds."""
        entries = sorted(self.folder.glob(f"{name}@*"), key=_saved_at)
        for entry in entries[: -self.keep]:
            guard = self._lock(entry, fcntl.LOCK_EX)
            if guard:
                remove_tree(entry)
                self._unlock(entry, guard)

    def close(self) -> None:
        """Stop holding any checkpoint."""
        for file in self._held.values():
            file.close()
        self._held.clear()

    def _entry(self, name: str, key: str) -> Path:
        return self.folder / f"{name}@{key[:KEY_CHARS]}"

    def _open(self, entry: Path) -> IO[bytes]:
        locks = self.folder / ".locks"
        locks.mkdir(exist_ok=True)
        return (locks / entry.name).open("ab")

    def _lock(self, entry: Path, kind: int) -> IO[bytes] | None:
        file = self._open(entry)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def _unlock(self, entry: Path, guard: IO[bytes] | None) -> None:
        if entry.name.startswith(".tmp-"):  # of a name that never comes again; the others' lock files stay
            (self.folder / ".locks" / entry.name).unlink(missing_ok=True)
        if guard:
            guard.close()

    def _hold(self, entry: Path) -> None:
        if entry not in self._held:
            self._held[entry] = self._open(entry)
            fcntl.flock(self._held[entry], fcntl.LOCK_SH)  # waits out a prune or a rename

    def _remove_leftovers(self) -> None:
        for temp in self.folder.glob(".tmp-*"):
            guard = self._lock(temp, fcntl.LOCK_EX)
            if guard:
                remove_tree(temp)
                self._unlock(temp, guard)


def copy_tree(source: Path, dest: Path) -> None:
    """Copy a file or tree with its modes, times and holes, sharing blocks where the file system can.

    Raises LabFault.
    """
    argv = [
        "cp",
        "-a",
        "--reflink=auto",
        "--sparse=always",
        "--no-target-directory",
        "--",
        str(source),
        str(dest),
    ]
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COPY_TIMEOUT, check=True)
    except subprocess.TimeoutExpired:
        raise LabFault(
            f"copying {source.name} did not end within {COPY_TIMEOUT:.0f} s; is the disk failing?"
        ) from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        free = shutil.disk_usage(dest.parent).free / 1e9
        why = said[-1] if said else f"cp ended with {error.returncode}"
        raise LabFault(
            f"{source.name} could not be copied ({why}; {free:.1f} GB free at {dest.parent})"
        ) from None


def _saved_at(entry: Path) -> int:
    """When ENTRY was saved, in ns; 0 for one without a manifest, which goes first."""
    manifest = entry / MANIFEST
    return manifest.stat().st_mtime_ns if manifest.exists() else 0


def _describe(folder: Path) -> dict[str, list[int]]:
    """Mode, size and time of every file in FOLDER except the manifest, by its relative path.

    That is enough to see truncation, loss and later writes.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name != MANIFEST or path.parent != folder:
            info = path.lstat()
            found[str(path.relative_to(folder))] = [
                info.st_mode,
                info.st_size if not path.is_dir() else 0,
                info.st_mtime_ns,
            ]
    return found
