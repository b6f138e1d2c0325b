"""Which program is which: `python3 -I -S /usr/lib/veilor/app PROGRAM [ARGUMENTS]`."""

import importlib
import sys

from veilor.core.outcome import Code

PROGRAMS = {
    "firstboot-rebase": "firstboot",
    "update": "update",
    "rollback": "rollback",
    "status": "status",
    "usbguard-enroll": "usbguard",
    "doctor": "doctor.program",
    "health": "health",
    "notices": "notices",
    "usb-blocked": "blocked",
    "as-shipped": "shipped.program",
}


def main(argv: list[str]) -> int:
    """Run the program that ARGV names with the rest of it; its exit code."""
    if not argv or argv[0] not in PROGRAMS:
        print(f"veilor: name a program: {', '.join(PROGRAMS)}", file=sys.stderr)
        return int(Code.USAGE)
    program = importlib.import_module(f"veilor.device.{PROGRAMS[argv[0]]}")
    code: int = program.main(argv[1:])
    return code
