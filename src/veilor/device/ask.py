"""How somebody who is not root uses the programs: by units that run them as root, guarded by polkit.

ROWS says of each option of each program whether a unit does it, whether it needs no help, or why it is
refused. Who sits at the machine may ask and update without a password, since neither can install anything
except what is signed and announced; a rollback asks for an administrator's. There is no pkexec here, and no
program of ours is setuid. The rules are in /usr/share/polkit-1/rules.d/11-veilor-ask.rules; each unit leaves
its program's answer in a file that everybody may read.
"""

import argparse
import json
import os
from dataclasses import dataclass

from veilor.core.outcome import Code, Outcome
from veilor.device.run import DeviceError, at, run

ANSWERS = "/run/veilor/answer-{}.json"
UNIT_LIMIT = 7 * 3600.0  # seconds: as long as an update may take


@dataclass(frozen=True)
class ByUnit:
    """veilor-ask-NAME.service does exactly that as root, and polkit decides who may start it."""

    name: str


@dataclass(frozen=True)
class Unaided:
    """The program does it in the person's own name: nothing in it needs root, BECAUSE of what it is."""

    because: str


@dataclass(frozen=True)
class Besides:
    """What the option adds is done in the person's own name, BECAUSE of what it is; the rest by a unit."""

    because: str


@dataclass(frozen=True)
class Refused:
    """Root alone may: WHAT, BECAUSE of what, and what to do INSTEAD, for a sentence each."""

    because: str
    instead: str = ""
    what: str = "Only root can do this"

    def error(self) -> DeviceError:
        """The error that says so."""
        instead = f"{self.instead}, or start it with sudo" if self.instead else "start it with sudo"
        return DeviceError(self.what, f"{self.because}; nothing was changed", instead, Code.ROOT)


Row = ByUnit | Unaided | Besides | Refused

_READS_ALONE = Unaided("it only reads, and what root alone may read is UNKNOWN")
_USB = Refused(
    "a program of your session could otherwise let in a device that was plugged in to act with it",
    what="Only root can choose the USB devices",
)
_FIRST_MOVE = Refused(
    "the unit of the first boot does it by itself, as root",
    "`veilor-firstboot-rebase --status` says how far it is",
)
# For each program, by the options that are given (as argparse calls them; --json is left out, it changes only
# the form of the answer): what happens when somebody who is not root starts it. No row: it is refused.
ROWS: dict[str, dict[tuple[str, ...], Row]] = {
    "veilor-status": {
        (): ByUnit("status"),
        ("claims",): Besides("what was shown of an image is public, and is fetched in the person's own name"),
    },
    "veilor-update": {
        (): ByUnit("update"),
        ("check",): ByUnit("check"),
        ("now",): ByUnit("update-now"),
        ("download_only",): ByUnit("download"),
        ("apply",): Besides("logind is asked for the restart, and has its own rules for who may restart"),
        ("due",): Refused(
            "--due is for the timer, so that it asks no more often than it should", "leave it out"
        ),
    },
    "veilor-rollback": {
        (): Refused(
            "it has to be confirmed, and a unit can ask nobody",
            "`veilor-rollback --yes` asks for an administrator's password",
        ),
        ("yes",): ByUnit("rollback"),
        ("withdrawn",): Refused(
            "its makers say that such a version must not be started, and a button overrules nobody",
            "`run0 veilor-rollback --yes --withdrawn` asks for an administrator's password",
        ),
    },
    "veilor-doctor": {(): _READS_ALONE, ("claim",): _READS_ALONE, ("list",): _READS_ALONE},
    "veilor-usbguard-enroll": {
        (): _USB,
        ("dry_run",): Refused("root alone may read which devices were allowed before", what=_USB.what),
        ("announce",): _USB,
        ("forget",): _USB,
        ("also",): _USB,
    },
    "veilor-firstboot-rebase": {
        (): _FIRST_MOVE,
        ("status",): Unaided("it reads what everybody may read"),
        ("retry",): Refused(
            "it also lets go of versions that were held back here because they failed", _FIRST_MOVE.instead
        ),
        ("now",): _FIRST_MOVE,
    },
}
UNITS = {
    (program, *options): row.name
    for program, rows in ROWS.items()
    for options, row in rows.items()
    if isinstance(row, ByUnit)
}


def decide(program: str, args: argparse.Namespace) -> Row:
    """What happens when somebody who is not root starts PROGRAM with ARGS: a row of ROWS, never Besides."""
    rows = ROWS[program]
    given = sorted(name for name, value in vars(args).items() if value and name != "json")
    asked = tuple(name for name in given if not isinstance(rows.get((name,)), Besides))
    if asked in rows:
        return rows[asked]
    own = [row for name in asked if (row := rows.get((name,)))]
    for row in own:
        if isinstance(row, Refused):
            return row
    if len(own) == len(asked) and all(isinstance(row, Unaided) for row in own):
        return own[0]
    flags = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
    return Refused(f"there is no unit for {flags}" + " together" * (len(asked) > 1), "leave it out")


def unit_for(program: str, args: argparse.Namespace) -> str | None:
    """The name of what a unit does for PROGRAM with ARGS; None when no unit does that."""
    row = decide(program, args)
    return row.name if isinstance(row, ByUnit) else None


def is_root() -> bool:
    """Whether this process may do everything itself."""
    return os.geteuid() == 0


def require_root(program: str, args: argparse.Namespace) -> None:
    """Raise DeviceError (ROOT) when somebody who is not root asks for what is refused to them."""
    row = decide(program, args)
    if not is_root() and isinstance(row, Refused):
        raise row.error()


def do_by_unit(program: str, args: argparse.Namespace) -> Outcome:
    """Have a unit do as root what ARGS ask of PROGRAM, and return the outcome that it left.

    Raises DeviceError: ROOT when it is refused or polkit says no, FAILED when no answer was left.
    """
    row = decide(program, args)
    if isinstance(row, Refused):
        raise row.error()
    if not isinstance(row, ByUnit):
        raise TypeError(f"{program} needs no unit for this")
    done = run(["systemctl", "start", f"veilor-ask-{row.name}.service"], timeout=UNIT_LIMIT)
    if done.code:
        raise DeviceError(
            f"Only root can do this, and it could not be asked for ({done.reason})",
            "nothing was changed",
            "do it at the machine itself, or start it with sudo",
            Code.ROOT,
        )
    try:
        return parse_answer(at(ANSWERS.format(row.name)).read_bytes())
    except (OSError, ValueError, RecursionError):
        raise DeviceError(
            "It was done as root, but left no answer", "what boots next is as `veilor-status` says", ""
        ) from None


def parse_answer(content: bytes) -> Outcome:
    """The outcome that a program wrote with --json (Outcome.as_dict). Raises ValueError, RecursionError."""
    data = json.loads(content)
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    code, warnings = data.pop("code", None), data.pop("warnings", None)
    what, means, then = (data.pop(key, None) for key in ("what", "means", "next"))
    if not isinstance(what, str) or not what:
        raise ValueError("it does not say what happened")
    if not isinstance(means, str) or not isinstance(then, str):
        raise ValueError("it does not say what that means and what to do next")
    if not isinstance(warnings, list):
        raise ValueError("its warnings are no list")
    return Outcome(Code(code), what, means, then, facts=data, warnings=tuple(map(str, warnings)))
