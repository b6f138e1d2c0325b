"""How somebody who is not root uses the programs: by units that run them as root, guarded by polkit.

Who sits at the machine may look and update without a password, since neither can install anything but what is
signed and announced; a rollback asks for an administrator. There is no pkexec here, and no program of ours is
setuid. The rules are in /usr/share/polkit-1/rules.d/11-veilor-ask.rules; each unit leaves its program's
answer in a file for everybody.
"""

import json
import os

from veilor.core.outcome import Code, Outcome
from veilor.device.run import DeviceError, at, run

ANSWERS = "/run/veilor/answer-{}.json"
PATIENCE = 7 * 3600.0  # as long as an update may take
# Program and options that matter: the unit that does just that.
UNITS = {
    ("veilor-status",): "status",
    ("veilor-update",): "update",
    ("veilor-update", "check"): "check",
    ("veilor-update", "now"): "update-now",
    ("veilor-rollback", "yes"): "rollback",
}


def unit_for(program: str, args) -> str | None:
    """The name of what the unit does for PROGRAM with ARGS; None when no unit does that."""
    given = tuple(sorted(name for name, value in vars(args).items() if value and name != "json"))
    return UNITS.get((program, *given))


def ask(program: str, args) -> Outcome:
    """Have the unit for PROGRAM with ARGS do it, and give its outcome. Raises DeviceError: ROOT when that is
    not possible.
    """
    name = unit_for(program, args)
    if name is None:
        raise DeviceError("Only root can do this", "nothing was changed", "start it with sudo", Code.ROOT)
    done = run(["systemctl", "start", f"veilor-ask-{name}.service"], timeout=PATIENCE)
    if done.code:
        raise DeviceError(
            f"Only root can do this, and it could not be asked for ({done.reason})",
            "nothing was changed",
            "do it at the machine itself, or start it with sudo",
            Code.ROOT,
        )
    try:
        data = json.loads(at(ANSWERS.format(name)).read_bytes())
        code, texts = Code(data.pop("code")), [data.pop(key) for key in ("what", "means", "next")]
        warnings = tuple(map(str, data.pop("warnings")))
        if not texts[0]:
            raise ValueError("it says nothing")
    except (OSError, ValueError, RecursionError, LookupError, AttributeError, TypeError):
        raise DeviceError(
            "It was done as root, but left no answer", "what boots next is as `veilor-status` says", ""
        ) from None
    return Outcome(code, *map(str, texts), facts=data, warnings=warnings)


def is_root() -> bool:
    """Whether this process may do it itself."""
    return os.geteuid() == 0
