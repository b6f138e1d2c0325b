"""One terminal, shown on every console of the machine at once; what tmux is for Anaconda.

The installer runs behind a pseudo-terminal. What it writes goes to each console, what is typed on any of them
goes to it, so a person at the screen and a driver on the serial line see the same questions.
"""

import fcntl
import os
import pty
import select
import sys
import termios
import tty
from collections.abc import Callable

SCREEN = 8  # a virtual terminal of our own: the first one has a login prompt that would take the typing
VT_ACTIVATE = 0x5606


def console_names() -> list[str]:
    """The device names of the kernel's consoles, such as ttyS0; tty0 stands for the screen."""
    with open("/sys/class/tty/console/active") as active:
        return active.read().split()


def open_consoles() -> list[int]:
    """The consoles as file descriptors in raw mode; one that can't be opened is left out."""
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
    """Run PROGRAM in a child behind a pseudo-terminal shown on all consoles; its exit code."""
    child, behind = pty.fork()
    if child == 0:
        try:
            code = program()
        except BaseException as error:  # a bug: say so on the console too, then end as a failed program
            write_all(1, f"VEILOR-INSTALL: FAILED {type(error).__name__}: {error}\n".encode())
            code = 70
        sys.stdout.flush()
        os._exit(code)
    consoles = open_consoles()
    while True:
        for ready in select.select([behind, *consoles], [], [])[0]:
            try:
                data = os.read(ready, 4096)
            except OSError:  # of the pseudo-terminal: the child has ended
                data = b""
            if ready != behind:
                if data:
                    os.write(behind, data)
                else:
                    consoles.remove(ready)
                continue
            if not data:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for console in consoles:
                write_all(console, data)


def write_all(fd: int, data: bytes) -> None:
    """Write DATA whole; a console that went away is left alone."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


def ask_secret(prompt: str) -> bytes:
    """A line typed on the terminal without showing it, as bytes without the line's end. Raises EOFError at
    its end.
    """
    fd = os.open("/dev/tty", os.O_RDWR)
    try:
        before = termios.tcgetattr(fd)
        silent = termios.tcgetattr(fd)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(
            fd, termios.TCSADRAIN, silent
        )  # before the prompt, so that nothing typed after it is shown
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
