"""Checks of disks, mounts, swap and files."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from veilor.device.doctor.observation import Observation, Unseen, judge, judge_list, read_text
from veilor.device.run import at

LUKS2 = "CRYPT-LUKS2-"  # how cryptsetup begins the device-mapper UUID of what it opened
LAYERS = 8  # of block devices below one another: more is a loop, not a machine
WHOLE_TREE = 99  # folders deep
RUNS_AS_ANOTHER = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True)
class Mount:
    """A mounted file system: its device number ("MAJOR:MINOR") and its source (a path or a name)."""

    number: str
    source: str


def mounts() -> dict[str, Mount]:
    """Every mount by its mount point (proc_pid_mountinfo(5)); of several at one mount point the last.

    Raises Unseen when there is none.
    """
    found = {}
    for line in (read_text("/proc/self/mountinfo") or "").splitlines():
        fields = line.split()
        if "-" in fields[6:]:  # it ends the optional fields
            found[fields[4]] = Mount(fields[2], fields[fields.index("-", 6) + 2])
    if not found:
        raise Unseen("/proc/self/mountinfo says nothing")
    return found


def mount_of(path: str) -> Mount:
    """The mount that PATH lies on. Raises Unseen."""
    by_point = mounts()
    while path not in by_point:
        if path == "/":
            raise Unseen("nothing is mounted at /")
        path = path.rsplit("/", 1)[0] or "/"
    return by_point[path]


def block_device(mount: Mount) -> str:
    """The number of the block device behind MOUNT: btrfs has an anonymous one, so then it is its source's.

    Raises Unseen.
    """
    if not mount.number.startswith("0:"):
        return mount.number
    return device_number(mount.source)


def device_number(path: str) -> str:
    """The number ("MAJOR:MINOR") of the block device at PATH. Raises Unseen."""
    try:
        number = os.stat(at(path)).st_rdev
    except OSError:
        raise Unseen(f"what is behind {path} cannot be seen") from None
    return f"{os.major(number)}:{os.minor(number)}"


def in_luks(number: str, layer: int = 0) -> bool:
    """Whether the block device NUMBER, or every device below it, was opened from LUKS2.

    sysfs says so: dm/uuid of the device, and its folder slaves. Raises Unseen.
    """
    folder = f"/sys/dev/block/{number}"
    if not at(folder).exists():
        raise Unseen(f"{folder} is not there")
    if (read_text(f"{folder}/dm/uuid") or "").startswith(LUKS2):
        return True
    if layer >= LAYERS or not at(f"{folder}/slaves").is_dir():
        return False
    names = sorted(path.name for path in at(f"{folder}/slaves").iterdir())
    numbers = [read_text(f"{folder}/slaves/{name}/dev") or "" for name in names]
    return bool(numbers) and all(in_luks(below, layer + 1) for below in numbers)


def encrypted(paths: list[str]) -> Observation:
    """Each of PATHS lies on a disk that was opened from LUKS2."""
    bare = [path for path in paths if not in_luks(block_device(mount_of(path)))]
    return judge_list(bare, "not encrypted", f"{' and '.join(paths)}: on LUKS2")


def swap_safe() -> Observation:
    """Nothing of the memory is written to a disk in the clear: swap is compressed memory or in LUKS2."""
    lines = [line.split() for line in (read_text("/proc/swaps") or "").splitlines()[1:]]
    bare = []
    for name, kind, *_ in lines:
        if os.path.basename(name).startswith("zram"):
            continue
        number = block_device(mount_of(name)) if kind == "file" else device_number(name)
        if not in_luks(number):
            bare.append(name)
    return judge_list(bare, "swap in the clear", f"{len(lines)} swap areas, none on a bare disk")


def first_said(folder: str, want: dict[str, str]) -> Observation:
    """In the files *.conf of FOLDER, read by name, the first value of each word of WANT is the one wanted.

    So sshd reads its configuration: the first value counts.
    """
    try:
        names = sorted(name for name in os.listdir(at(folder)) if name.endswith(".conf"))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise Unseen(f"{folder} cannot be looked into ({error.strerror})") from None
    first: dict[str, str] = {}
    for name in names:
        for line in (read_text(f"{folder}/{name}") or "").splitlines():
            word, _, value = line.strip().partition(" ")
            first.setdefault(word.lower(), value.strip().lower())
    wrong = [f"{word} is {first.get(word, 'not set')}" for word in want if first.get(word) != want[word]]
    return judge(not wrong, "; ".join(wrong) or f"{folder} says what it should of {len(want)} words")


def read_only(path: str) -> Observation:
    """Nobody can write below PATH: its file system is mounted read-only."""
    try:
        fixed = bool(os.statvfs(at(path)).f_flag & os.ST_RDONLY)
    except OSError as error:
        raise Unseen(f"{path} cannot be looked at ({error.strerror})") from None
    return judge(fixed, f"{path} is {'read-only' if fixed else 'writable'}")


def label(path: str, want: str) -> Observation:
    """The file at PATH has the SELinux type WANT, by which the domain of a started program is chosen."""
    try:
        context = os.getxattr(at(path), "security.selinux").decode().rstrip("\0")
    except OSError as error:
        return judge(False, f"{path} has no label of SELinux's ({error.strerror})")
    return judge(want in context.split(":"), f"SELinux has {path} down as {context}")


def setuid(folders: list[str], upper: list[str], allowed: list[str]) -> Observation:
    """Only files ALLOWED (patterns) have a bit by which a program runs as another user than who starts it.

    FOLDERS are searched whole, those called UPPER three folders deep: deeper lie tens of thousands of files,
    and no package's programs.
    """
    depths = {**dict.fromkeys(upper, 3), **dict.fromkeys(folders, WHOLE_TREE)}
    found: list[str] = []
    hidden: list[str] = []
    for folder, depth in depths.items():
        found += files_with_bit(str(at(folder)), depth, hidden)
    named = {path for path in found if any(fnmatchcase(path, pattern) for pattern in allowed)}
    extra = sorted(set(found) - named)
    if hidden and not extra:
        raise Unseen(f"cannot be looked into: {', '.join(hidden[:5])}")
    return judge_list(
        extra[:5], "set-user-ID beyond what is named", f"{len(found)} files with the bit, all named"
    )


def files_with_bit(folder: str, depth: int, hidden: list[str]) -> Iterator[str]:
    """Every file in FOLDER, and DEPTH folders further down, that has the set-user-ID or set-group-ID bit.

    Paths as on the machine. Folders that may not be read are added to HIDDEN, with the reason.
    """
    below = []
    try:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
                continue
            if not entry.is_file(follow_symlinks=False):
                continue
            if entry.stat(follow_symlinks=False).st_mode & RUNS_AS_ANOTHER:
                yield _on_machine(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # nothing is there, so nothing has the bit
    except OSError as error:
        hidden.append(f"{_on_machine(folder)} ({error.strerror})")
    if depth:
        for path in below:
            yield from files_with_bit(path, depth - 1, hidden)


def _on_machine(path: str) -> str:
    """PATH as the machine knows it, below tests' root folder too."""
    return "/" + os.path.relpath(path, at("/"))
