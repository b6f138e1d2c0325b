"""Running programs for the installer: each with a limit, each logged, its standard input never."""

import shlex
import subprocess
import time
from typing import Any

LOG = "/tmp/program.log"


class Failed(Exception):
    """An expected failure: one line that says what happened and what to do next."""


class EarlyFailed(Failed):
    """A failure while nothing can show it yet: of a %pre script."""


def log(text: str) -> None:
    """Add TEXT to the installer's log of programs."""
    with open(LOG, "a") as out:
        out.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def run(
    *argv: str,
    stdin: bytes | None = None,
    timeout: float = 120,
    check: bool = True,
    env: dict[str, str] | None = None,
) -> str:
    """Run ARGV to its end and return its standard output.

    Raises Failed when it cannot be started, does not end within TIMEOUT seconds, or, with CHECK, ends with
    another code than 0.
    """
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    log("$ " + shlex.join(argv))
    try:
        done = subprocess.run(argv, capture_output=True, timeout=timeout, env=env, **given)
    except subprocess.TimeoutExpired:
        raise Failed(f"{argv[0]} did not end within {timeout:.0f} s; look at {LOG}, start again") from None
    except OSError as error:
        raise Failed(
            f"{argv[0]} can't be started ({error.strerror}); this medium is damaged, make it anew"
        ) from None
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    for line in (out + err).splitlines():
        log("  " + line)
    if check and done.returncode:
        last_lines = " / ".join((err or out).strip().splitlines()[-3:])[-300:]
        raise Failed(
            f"`{shlex.join(argv)[:100]}` ended with {done.returncode}: {last_lines}; the installation can't "
            "be used, start again"
        )
    return out


def lab_setting(name: str) -> str | None:
    """The lab's setting NAME: a system credential, else a kernel argument of that name, else None."""
    try:
        with open(f"/run/credentials/@system/{name}") as credential:
            return credential.read().strip()
    except OSError:
        return kernel_arguments().get(name)


def kernel_arguments() -> dict[str, str]:
    """The live medium's kernel arguments; of those that occur twice the last."""
    with open("/proc/cmdline") as cmdline:
        found = {}
        for word in cmdline.read().split():
            name, _, value = word.partition("=")
            found[name] = value
        return found


def display_mode() -> str:
    """`text` or `graphical`, where the installer opens windows: of the boot arguments the last counts."""
    with open("/proc/cmdline") as cmdline:
        modes = [word for word in cmdline.read().split() if word in ("inst.text", "inst.graphical")]
    return modes[-1].removeprefix("inst.") if modes else "graphical"


def console_arguments() -> list[str]:
    """The live medium's `console=` arguments, in order."""
    with open("/proc/cmdline") as cmdline:
        return [word for word in cmdline.read().split() if word.startswith("console=")]
