"""One terminal, shown on every console of the machine at once, as tmux does for Anaconda.

The installer runs behind a pseudo-terminal. What it writes goes to each console, and what is typed on any of
them goes to it, so a person at the screen and a driver on the serial line see the same questions.
"""

import fcntl
import os
import pty
import select
import sys
import termios
import tty
from collections.abc import Callable
from typing import NoReturn

SCREEN = 8  # a virtual terminal of our own: the first one has a login prompt that would take the typing
VT_ACTIVATE = 0x5606  # the ioctl that brings a virtual terminal to the front (linux/vt.h)
BUG = 70  # the exit code of a program that ended by an exception of its own (sysexits.h)


def console_names() -> list[str]:
    """The device names of the kernel's consoles, such as ttyS0; tty0 stands for the screen."""
    with open("/sys/class/tty/console/active") as active:
        return active.read().split()


def open_consoles() -> list[int]:
    """The consoles as file descriptors in raw mode, the screen brought to the front.

    One that can't be opened is left out.
    """
    found = []
    for name in console_names():
        path = f"/dev/tty{SCREEN}" if name == "tty0" else f"/dev/{name}"
        try:
            console = os.open(path, os.O_RDWR | os.O_NOCTTY)
            tty.setraw(console)
            if name == "tty0":
                fcntl.ioctl(console, VT_ACTIVATE, SCREEN)
            found.append(console)
        except (OSError, termios.error):
            continue
    return found


def relay(program: Callable[[], int]) -> int:
    """Run PROGRAM in a child behind a pseudo-terminal that all consoles show; its exit code."""
    child, master = pty.fork()
    if child == 0:
        run_child(program)
    consoles = open_consoles()
    while True:
        for ready in select.select([master, *consoles], [], [])[0]:
            data = read_some(ready)
            if ready == master:
                if not data:
                    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                for console in consoles:
                    write_all(console, data)
            elif data:
                os.write(master, data)
            else:
                consoles.remove(ready)


def run_child(program: Callable[[], int]) -> NoReturn:
    """Run PROGRAM and end this process with its exit code; a bug is named on the consoles as well."""
    try:
        code = program()
    except BaseException as error:
        write_all(1, f"VEILOR-INSTALL: FAILED {type(error).__name__}: {error}\n".encode())
        code = BUG
    sys.stdout.flush()
    os._exit(code)


def read_some(fd: int) -> bytes:
    """What can be read from FD now; empty at its end, which a pseudo-terminal reports as an error."""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""


def write_all(fd: int, data: bytes) -> None:
    """Write DATA whole; a console that went away is left alone."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


def ask_secret(prompt: str) -> bytes:
    """A line typed on the terminal without showing it, as bytes without the line's end.

    Raises EOFError when the terminal ends.
    """
    fd = os.open("/dev/tty", os.O_RDWR)
    try:
        before = termios.tcgetattr(fd)
        silent = termios.tcgetattr(fd)
        silent[3] &= ~termios.ECHO
        # Before the prompt, so that nothing typed after it is shown.
        termios.tcsetattr(fd, termios.TCSADRAIN, silent)
        try:
            write_all(fd, prompt.encode())
            typed = b""
            while not typed.endswith(b"\n"):
                more = os.read(fd, 1)
                if not more:
                    raise EOFError
                typed += more
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
            write_all(fd, b"\n")
    finally:
        os.close(fd)
    return typed[:-1]


def ask(prompt: str) -> bytes:
    """A line typed after PROMPT, shown as it is typed. Raises EOFError when the terminal ends."""
    with open("/dev/tty", "r+b", buffering=0) as terminal:
        write_all(terminal.fileno(), prompt.encode())
        line = terminal.readline()
    if not line:
        raise EOFError
    return line
