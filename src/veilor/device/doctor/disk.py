"""Looks at disks, mounts, swap and files."""

import os
import stat
from fnmatch import fnmatchcase

from veilor.device.doctor.observation import Observation, Unseen, judge, read_text
from veilor.device.run import at

LUKS2 = "CRYPT-LUKS2-"  # how cryptsetup begins the device-mapper UUID of what it opened


def mounts() -> dict[str, tuple[str, str, str]]:
    """Mount point: device number, source, per-mount options (proc_pid_mountinfo(5)); of several at one place
    the last.
    """
    found = {}
    for line in (read_text("/proc/self/mountinfo") or "").splitlines():
        fields = line.split()
        if "-" in fields[6:]:
            found[fields[4]] = (fields[2], fields[fields.index("-", 6) + 2], fields[5])
    if not found:
        raise Unseen("/proc/self/mountinfo says nothing")
    return found


def holding(path: str) -> tuple[str, str, str]:
    """The mount that PATH lies on."""
    all_ = mounts()
    while path not in all_:
        if path == "/":
            raise Unseen("nothing is mounted at /")
        path = path.rsplit("/", 1)[0] or "/"
    return all_[path]


def block_device(number: str, source: str) -> str:
    """The block device's number behind a mount: btrfs has an anonymous one, so then it is its source's."""
    if not number.startswith("0:"):
        return number
    try:
        found = os.stat(at(source)).st_rdev
    except OSError:
        raise Unseen(f"what is behind {source} cannot be seen") from None
    return f"{os.major(found)}:{os.minor(found)}"


def in_luks(number: str, seen: int = 0) -> bool:
    """Whether the block device NUMBER, or every device beneath it, was opened from LUKS2 (sysfs: dm/uuid,
    slaves).
    """
    folder = f"/sys/dev/block/{number}"
    if not at(folder).exists():
        raise Unseen(f"{folder} is not there")
    if (read_text(f"{folder}/dm/uuid") or "").startswith(LUKS2):
        return True
    slaves = at(f"{folder}/slaves")
    below = sorted(slaves.iterdir()) if slaves.is_dir() else []
    numbers = [read_text(f"{folder}/slaves/{path.name}/dev") or "" for path in below]
    return bool(numbers) and seen < 8 and all(in_luks(one, seen + 1) for one in numbers)


def encrypted(paths: list[str]) -> Observation:
    """Each of PATHS lies on a disk that was opened from LUKS2."""
    bare = [path for path in paths if not in_luks(block_device(*holding(path)[:2]))]
    return judge(
        not bare, f"not encrypted: {', '.join(bare)}" if bare else f"{' and '.join(paths)}: on LUKS2"
    )


def swap_safe() -> Observation:
    """Nothing of the memory is written to a disk in the clear: all swap is compressed memory, or lies in
    LUKS2.
    """
    lines = [line.split() for line in (read_text("/proc/swaps") or "").splitlines()[1:]]
    bare = []
    for name, kind, *_ in lines:
        if os.path.basename(name).startswith("zram"):
            continue
        inside = (
            in_luks(block_device(*holding(name)[:2]))
            if kind == "file"
            else in_luks(block_device("0:0", name))
        )
        bare += [] if inside else [name]
    return judge(
        not bare,
        f"swap in the clear: {', '.join(bare)}" if bare else f"{len(lines)} swap areas, none on a bare disk",
    )


def first_said(folder: str, want: dict[str, str]) -> Observation:
    """In the files *.conf of FOLDER, by name, what is said first of each word of WANT is its value: so sshd
    reads them.
    """
    try:
        names = sorted(name for name in os.listdir(at(folder)) if name.endswith(".conf"))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise Unseen(f"{folder} cannot be looked into ({error.strerror})") from None
    said: dict[str, str] = {}
    for line in "\n".join(read_text(f"{folder}/{name}") or "" for name in names).splitlines():
        word, _, value = line.strip().partition(" ")
        said.setdefault(word.lower(), value.strip().lower())
    wrong = [
        f"{word} is {said.get(word, 'not set')}" for word, value in want.items() if said.get(word) != value
    ]
    return judge(not wrong, "; ".join(wrong) or f"{folder} says what it should of {len(want)} words")


def read_only(path: str) -> Observation:
    """Nobody can write below PATH."""
    try:
        fixed = bool(os.statvfs(at(path)).f_flag & os.ST_RDONLY)
    except OSError as error:
        raise Unseen(f"{path} cannot be looked at ({error.strerror})") from None
    return judge(fixed, f"{path} is {'read-only' if fixed else 'writable'}")


def label(path: str, want: str) -> Observation:
    """SELinux has the file at PATH down as of the type WANT, by which it knows whose domain a program lands
    in.
    """
    try:
        said = os.getxattr(at(path), "security.selinux").decode().rstrip("\0")
    except OSError as error:
        return judge(False, f"{path} has no label of SELinux's ({error.strerror})")
    return judge(want in said.split(":"), f"SELinux has {path} down as {said}")


def setuid(folders: list[str], upper: list[str], allowed: list[str]) -> Observation:
    """No file in FOLDERS, or up to three folders deep in those called UPPER, has a bit with which a program
    runs as another user than who starts it, but those ALLOWED (patterns). Deeper lie tens of thousands of
    files, and no package's programs."""
    found, hidden = [], []
    waiting = [(str(at(folder)), deep) for some, deep in ((folders, 99), (upper, 3)) for folder in some]
    while waiting:
        place, deep = waiting.pop()
        try:
            for entry in os.scandir(place):
                if entry.is_dir(follow_symlinks=False):
                    waiting += [(entry.path, deep - 1)] if deep else []
                elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mode & (
                    stat.S_ISUID | stat.S_ISGID
                ):
                    found.append("/" + os.path.relpath(entry.path, at("/")))
        except (FileNotFoundError, NotADirectoryError):
            continue  # nothing is there, so nothing has the bit
        except OSError as error:
            hidden.append(f"/{os.path.relpath(place, at('/'))} ({error.strerror})")
    extra = sorted(path for path in set(found) if not any(fnmatchcase(path, one) for one in allowed))
    if hidden and not extra:
        raise Unseen(f"cannot be looked into: {', '.join(hidden[:5])}")
    return judge(
        not extra,
        f"set-user-ID beyond what is named: {', '.join(extra[:5])}"
        if extra
        else f"{len(found)} files with the bit, all named",
    )
