"""One function turns a name and its inputs into a cached artefact; trees, images and media all use it.

An entry is a folder `NAME-KEY/` with the artefact under its own name and `manifest.json` beside it, made by
one rename. A lock per key (flock, so it dies with its holder) keeps two rehearsals from building the
same thing twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from veilor.lab.verdict import LabFault

KEY_CHARS = 20
MANIFEST = "manifest.json"
UNUSED = 14 * 86400  # seconds after which an entry that nobody asked for makes room for newer ones
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def print_progress(line: str) -> None:
    """One line of progress for the person at the terminal."""
    print(line, file=sys.stderr, flush=True)


def cache_root() -> Path:
    """The folder for what can be made again: $VEILOR_CACHE, else veilor under the user's cache folder."""
    chosen = os.environ.get("VEILOR_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "veilor"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write CONTENT to PATH so that a reader sees the old file or the whole new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    handle, temp = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        os.replace(temp, path)
    except BaseException:
        Path(temp).unlink(missing_ok=True)
        raise


def _walk(path: Path, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, Path, os.stat_result]]:
    """PATH and all below it except folders named in SKIP, in one fixed order.

    Each is (name relative to PATH, path, lstat). Links are not followed.
    """
    yield ".", path, path.lstat()
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path, onerror=_raise_error):
            folders[:] = sorted(name for name in folders if name not in skip)
            for name in sorted([*folders, *files]):
                full = Path(folder, name)
                yield str(full.relative_to(path)), full, full.lstat()


def _raise_error(error: OSError) -> None:
    raise error


def _feed(digest: Any, *parts: object) -> None:
    """Feed PARTS into DIGEST, each with its length before it, so that no two lists of parts look the same."""
    for part in parts:
        data = part if isinstance(part, bytes) else os.fsencode(str(part))
        digest.update(len(data).to_bytes(8, "big") + data)


def hash_tree(path: Path, skip: tuple[str, ...] = ("__pycache__",)) -> str:
    """SHA-256 over a file's or tree's names, kinds, permission bits, link targets and contents.

    Times and owners do not matter.
    Folders named in SKIP are left out: by default the bytecode that Python leaves in source folders as it
    runs.
    """
    digest = hashlib.sha256()
    for name, full, info in _walk(Path(path), skip):
        _feed(
            digest,
            name,
            stat.S_IFMT(info.st_mode),
            0 if stat.S_ISLNK(info.st_mode) else stat.S_IMODE(info.st_mode),
        )
        if stat.S_ISLNK(info.st_mode):
            _feed(digest, os.readlink(full))
        elif stat.S_ISREG(info.st_mode):
            with full.open("rb") as file:
                _feed(digest, hashlib.file_digest(file, "sha256").digest())
        elif not stat.S_ISDIR(info.st_mode):
            _feed(digest, info.st_rdev)
    return digest.hexdigest()


def _listing(path: Path) -> dict[str, Any]:
    """Number of entries, bytes, and a hash over names, modes, sizes and times.

    It is quick to take, and any write changes it.
    """
    digest, entries, size = hashlib.sha256(), 0, 0
    for name, _, info in _walk(path):
        regular = stat.S_ISREG(info.st_mode)
        _feed(digest, name, info.st_mode, info.st_size if regular else 0, info.st_mtime_ns, info.st_ctime_ns)
        entries, size = entries + 1, size + (info.st_size if regular else 0)
    return {"entries": entries, "bytes": size, "listing": digest.hexdigest()}


def _canonical(value: Any) -> Any:
    """VALUE as something JSON writes in one way only; files and trees become their hash."""
    if isinstance(value, Path):
        return {"tree": hash_tree(value)}
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Mapping):
        return {"map": [[str(key), _canonical(value[key])] for key in sorted(value, key=str)]}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"an input of a cached artefact can't be a {type(value).__name__}")


def key_of(name: str, inputs: Mapping[str, Any]) -> str:
    """The key of artefact NAME made from INPUTS, in hex.

    INPUTS are str, bytes, numbers, None, Path (then its contents count), and lists and mappings of these.
    """
    return hashlib.sha256(json.dumps([name, _canonical(inputs)]).encode()).hexdigest()


def remove_tree(path: Path) -> None:
    """Remove a file or tree, also where a folder in it is not writable."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)  # which also takes what isn't there
        return
    for folder, folders, _ in os.walk(path):
        for name in folders:
            full = Path(folder, name)
            if not full.is_symlink():
                full.chmod(0o700)
    shutil.rmtree(path)


@contextmanager
def locked(path: Path, *, wait: bool = True, on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold the lock file PATH alone. Yields whether we have it, which is always so with WAIT.

    ON_WAIT is called once when somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never removed: a lock file that others may have open must keep its inode. Not inherited by programs we
    # start.
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True


def remove_leftovers(folder: Path, remove: Callable[[Path], None] = remove_tree) -> list[str]:
    """Remove what interrupted builds left in FOLDER, unless the builder still holds the lock.

    Returns the names removed.
    """
    removed = []
    for temp in folder.glob(".tmp-*"):
        entry = temp.name.removeprefix(".tmp-").rpartition("~")[0]
        with locked(folder / ".locks" / entry, wait=False) as free:
            if free and temp.exists():
                remove(temp)
                removed.append(temp.name)
    return removed


def find_damage(entry: Path) -> str:
    """What is wrong with ENTRY, in a few words; empty when it is whole.

    Names, sizes and times are compared, which is quick. Where those changed (a write, or a cache copied from
    elsewhere) the contents decide.
    """
    try:
        manifest = json.loads((entry / MANIFEST).read_text())
        path = entry / manifest["name"]
        if manifest["schema"] != 1:
            return "it is of another make"
        now = _listing(path)
        if now["listing"] == manifest["listing"]:
            return ""
        if (now["entries"], now["bytes"]) != (manifest["entries"], manifest["bytes"]):
            return (
                f"{now['bytes']} bytes in {now['entries']} entries, not {manifest['bytes']} in "
                f"{manifest['entries']}"
            )
        if hash_tree(path, skip=()) != manifest["content"]:
            return "its contents changed"
        write_atomic(entry / MANIFEST, json.dumps({**manifest, **now}, indent=1))
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it can't be read ({error})"


def artefact(
    cache_dir: Path,
    name: str,
    inputs: Mapping[str, Any],
    build: Callable[[Path], None],
    *,
    verify: bool = True,
    print_line: Callable[[str], None] = print_progress,
    remove: Callable[[Path], None] = remove_tree,
) -> Path:
    """The artefact NAME made from INPUTS: from the cache when it is there and whole, else by BUILD.

    BUILD is given a path that does not exist and makes a file or a folder there; it may leave scratch files
    beside it. The result lies at CACHE_DIR/NAME-KEY/NAME and is not to be written to. VERIFY off takes a kept
    entry unseen. What BUILD raises goes through, with nothing left behind. Raises LabFault when BUILD made
    nothing.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't name an artefact: small letters, digits, dot, dash and underscore")
    cache_dir.mkdir(parents=True, exist_ok=True)
    entry = cache_dir / f"{name}-{key_of(name, inputs)[:KEY_CHARS]}"
    lock = cache_dir / ".locks" / entry.name
    with locked(lock, on_wait=lambda: print_line(f"{name}: another run is making it; waiting …")):
        if (entry / MANIFEST).exists() and not verify:
            return entry / name
        if entry.exists():
            wrong = find_damage(entry)
            if not wrong:
                os.utime(entry / MANIFEST)  # tells _prune that it is in use
                return entry / name
            print_line(f"{name}: the copy in the cache is damaged ({wrong}); removed, making it again")
            remove(entry)
        for left in cache_dir.glob(f".tmp-{entry.name}~*"):  # ours, since we hold the lock
            remove(left)
        remove_leftovers(cache_dir, remove)
        _build_entry(cache_dir, entry, name, build, print_line, remove)
    _prune(cache_dir, name, remove)
    return entry / name


def _prune(cache_dir: Path, name: str, remove: Callable[[Path], None]) -> None:
    """Remove older entries of NAME that nobody has asked for since UNUSED seconds.

    A running rehearsal may still use younger ones.
    """
    for old in cache_dir.glob(f"{name}-{'[0-9a-f]' * KEY_CHARS}"):
        with locked(cache_dir / ".locks" / old.name, wait=False) as free:
            if free and (old / MANIFEST).exists() and (old / MANIFEST).stat().st_mtime < time.time() - UNUSED:
                remove(old)


def _build_entry(
    cache_dir: Path,
    entry: Path,
    name: str,
    build: Callable[[Path], None],
    print_line: Callable[[str], None],
    remove: Callable[[Path], None],
) -> None:
    """Build into a temporary folder beside ENTRY, describe what came out, rename."""
    temp = Path(tempfile.mkdtemp(prefix=f".tmp-{entry.name}~", dir=cache_dir))
    started = time.monotonic()
    print_line(f"{name}: making …")
    try:
        temp.chmod(0o755)
        path = temp / name
        build(path)
        if not path.exists():
            raise LabFault(f"making {name} ended without an error and without a result")
        for scratch in temp.iterdir():
            if scratch != path:
                remove(scratch)
        manifest = {"schema": 1, "name": name, **_listing(path), "content": hash_tree(path, skip=())}
        write_atomic(temp / MANIFEST, json.dumps(manifest, indent=1))
        temp.rename(entry)
    except BaseException:
        remove(temp)
        raise
    print_line(f"{name}: made in {time.monotonic() - started:.0f} s, {manifest['bytes'] / 1e6:.0f} MB")


def clean_cache(root: Path) -> str:
    """Remove what the lab made in the folder ROOT, and nothing else that lies there.

    While a rehearsal or a build is running, nothing is removed, and a line says what runs and what to do;
    else the line is empty.
    """
    for lock in root.glob(".locks/*"):
        with locked(lock, wait=False) as free:
            if not free:
                return f"{lock.name} is being made by another command; wait for it or end it first"
    for owner in root.glob("work/*/pid"):
        if Path("/proc", owner.read_text().strip() or "none").exists():
            return f"a rehearsal runs in {owner.parent}; end it first"
    for pattern in (
        "work",
        "checkpoints",
        "cargo",
        "slots.json",
        ".locks",
        ".tmp-*",
        "*-" + "[0-9a-f]" * KEY_CHARS,
    ):
        for path in root.glob(pattern):
            remove_tree(path)
    return ""
