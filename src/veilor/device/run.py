"""The one way to start another program, and where files are. Nothing else in the device's code spawns."""

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from veilor.core.outcome import Code, Outcome

ROOT = Path("/")  # tests put a folder here
PATH = "/usr/sbin:/usr/bin"
PIPE = "{pipe}"  # stands in argv for the number of the progress pipe
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEPT = 1 << 20  # bytes of each output that are kept: the last ones
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class DeviceError(Exception):
    """An expected failure that ends the program: its outcome is what the person reads."""

    def __init__(
        self,
        what: str,
        means: str = "",
        next: str = "",
        code: Code = Code.FAILED,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.outcome = Outcome(code, what, means, next, facts or {})


@dataclass(frozen=True)
class Done:
    """A program that has ended: exit code (negative: the signal that ended it) and its outputs as text."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last line it said, for a sentence."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        if not lines:
            return f"it ended with {self.code} and said nothing"
        return lines[-1].removeprefix("error: ")[-500:]


def at(path: str) -> Path:
    """The absolute PATH on the machine."""
    return ROOT / path.lstrip("/")


def environment() -> dict[str, str]:
    """What every program is started with.

    HOME is no home: a policy.json in root's own would win over the system's.
    """
    # a person's: where their desktop listens
    session = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS") if os.geteuid() else ()
    kept = {name: os.environ[name] for name in (*PROXIES, *session) if name in os.environ}
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": str(at("/run/veilor")), **kept}


def run(
    argv: list[str],
    *,
    timeout: float,
    progress: Callable[[bytes], None] | None = None,
    largest_file: int | None = None,
) -> Done:
    """Run ARGV to its end, at most TIMEOUT seconds, nothing on its standard input.

    PROGRESS gets each line that arrives on the pipe whose number replaces PIPE in ARGV. No file that it
    writes grows beyond LARGEST_FILE bytes: the kernel ends a program that tries (setrlimit(2), RLIMIT_FSIZE).
    Raises DeviceError when the program is missing (UNFIT) or was ended for taking too long (LATER). Whatever
    happens, nothing that it started is left behind.
    """
    reader = writer = None
    if progress:
        reader, writer = os.pipe()
        argv = [str(writer) if arg == PIPE else arg for arg in argv]
    child = None
    try:
        with _signals_deferred():
            child = _start(argv, writer, largest_file)
        texts = _follow(child, reader, progress, time.monotonic() + timeout)
        if texts is None:
            name = " ".join(argv[:2] if argv[1:] and not argv[1].startswith("-") else argv[:1])
            raise DeviceError(f"`{name}` did not end within {timeout:.0f} s and was stopped", code=Code.LATER)
        return Done(child.wait(), *texts)
    finally:
        if child is not None:
            _end(child)
            for pipe in _outputs(child):
                pipe.close()
        if reader is not None:
            os.close(reader)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """What asks this program to end is heard when the block has ended, since a child that is just being
    started would go on alone. A signal that is ignored stays so, here and in the child.
    """
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _start(argv: list[str], writer: int | None, largest_file: int | None) -> subprocess.Popen[bytes]:
    """ARGV as a child that has WRITER, which is closed here. Raises DeviceError."""
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd="/",
            start_new_session=True,
            pass_fds=() if writer is None else (writer,),
            preexec_fn=None if largest_file is None else partial(_limit_files, largest_file),
        )
    except OSError as error:
        raise DeviceError(
            f"{argv[0]} cannot be started ({error.strerror})",
            "this system lacks a part that veilor-os needs",
            "",
            Code.UNFIT,
        ) from None
    finally:
        if writer is not None:
            os.close(writer)


def _outputs(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """CHILD's standard output and standard error, which are always pipes: see `run`."""
    assert child.stdout is not None and child.stderr is not None
    return child.stdout, child.stderr


def _follow(
    child: subprocess.Popen[bytes],
    reader: int | None,
    progress: Callable[[bytes], None] | None,
    deadline: float,
) -> tuple[str, str] | None:
    """Both outputs once CHILD has ended, or None when DEADLINE came first."""
    out, err = (pipe.fileno() for pipe in _outputs(child))
    texts = {out: b"", err: b""}
    if reader is not None:
        texts[reader] = b""
    with selectors.DefaultSelector() as watch:
        for fd in texts:
            watch.register(fd, selectors.EVENT_READ)
        while watch.get_map():
            if time.monotonic() > deadline:
                return None
            if child.poll() is not None and not watch.select(0):
                break  # something it started may hold the pipes for ever
            for key, _ in watch.select(0.5):
                data = os.read(key.fd, 65536)
                if not data:
                    watch.unregister(key.fd)
                texts[key.fd] = (texts[key.fd] + data)[-KEPT:]
            if progress and reader is not None:
                *lines, texts[reader] = texts[reader].split(b"\n")
                for line in lines:
                    progress(line)
    try:
        child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    return texts[out].decode(errors="replace"), texts[err].decode(errors="replace")


def _limit_files(size: int) -> None:
    """In the child, before it is the program: no file that it writes may have more than SIZE bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _end(child: subprocess.Popen[bytes]) -> None:
    """End CHILD and what it started, if anything still runs: first asked, then forced."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        if child.poll() is not None:
            break
        try:
            os.killpg(child.pid, number)
            child.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    # What it left in its group may not have listened: its number stays the group's as long as one is there.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


_UNTRUSTED = ("signature", "rejected by policy", "insecureacceptanything", "not accepted", "policy.json")
_SILENT = (
    "dial tcp",
    "no such host",
    "connection",
    "timeout",
    "timed out",
    "deadline exceeded",
    "unreachable",
    "tls",
    "x509",
    "eof",
    "too many requests",
    "toomanyrequests",
    "service unavailable",
    "manifest unknown",
    "name resolution",
    "resolv",
    "status code: 5",
)


def failure_code(text: str) -> Code:
    """Which exit code fits what a failed skopeo or bootc said in TEXT.

    REFUSED: verification; LATER: network or registry; else FAILED. It decides only on words and exit codes:
    whatever stands there, the program has failed and nothing is trusted.
    """
    said = text.lower()
    silent = any(word in said for word in _SILENT)
    untrusted = any(word in said for word in _UNTRUSTED)
    if untrusted and "rejected" in said:
        return Code.REFUSED
    if untrusted and not silent:  # a signature that could not be fetched is a matter of the network
        return Code.REFUSED
    if silent:
        return Code.LATER
    return Code.FAILED
