"""Checks of services, asked over D-Bus through busctl: systemd's own answers, no prose."""

import json
import re
from collections.abc import Sequence
from typing import Any

from veilor.device.doctor.observation import Observation, Unseen, judge, judge_list, read_text
from veilor.device.run import DeviceError, run

MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
TIMEOUT = 10.0  # seconds for one question
AUDIT_KEY = r"(?:\bkey=|\s-k\s+)(\S+)"  # the two forms in which auditctl writes a rule's key


def call(service: str, path: str, interface: str, member: str, *arguments: str) -> Any:
    """What the D-Bus method MEMBER answers, as data (busctl's JSON: a list of values).

    ARGUMENTS as busctl takes them: a signature, then the values. Raises Unseen when the service is not there,
    refuses or is silent.
    """
    argv = ["busctl", "--system", "--json=short", "--no-pager", "call", service, path, interface, member]
    try:
        done = run([*argv, *arguments], timeout=TIMEOUT)
    except DeviceError as error:
        raise Unseen(error.outcome.what) from None
    if done.code:
        raise Unseen(f"{service} {member}: {done.reason}")
    try:
        return json.loads(done.out)["data"]
    except (ValueError, LookupError, TypeError):
        raise Unseen(f"{service} {member}: answered what cannot be understood") from None


class Units:
    """States of units, asked of systemd in one question for all that the claims name."""

    def __init__(self, names: list[str]) -> None:
        self.names = sorted(set(names))
        self.states: dict[str, tuple[str, str]] | None = None  # None: not asked yet
        self.silence = ""

    def state(self, name: str) -> tuple[str, str]:
        """The load state and the active state of the unit NAME, such as ("masked", "inactive").

        Raises Unseen when systemd does not say.
        """
        if self.states is None:
            self.states = {}
            try:
                self.states = self._ask()
            except Unseen as error:
                self.silence = str(error)
            except (LookupError, TypeError):
                self.silence = "systemd answered what cannot be understood"
        if name not in self.states:
            raise Unseen(self.silence or f"systemd says nothing of {name}")
        return self.states[name]

    def _ask(self) -> dict[str, tuple[str, str]]:
        """The states of all units. Raises Unseen, LookupError, TypeError.

        ListUnitsByNames answers name, description, load, active, sub state, … for each, in the order in which
        they were asked for (org.freedesktop.systemd1(5)); an alias is answered by its own name.
        """
        rows = call(*MANAGER, "ListUnitsByNames", "as", str(len(self.names)), *self.names)[0]
        names = self.names if len(rows) == len(self.names) else [row[0] for row in rows]
        return {name: (row[2], row[3]) for name, row in zip(names, rows, strict=True)}

    def unit(self, name: str, active: str = "", load: Sequence[str] = ()) -> Observation:
        """The unit NAME is in the ACTIVE state and in one of the LOAD states, where they are given."""
        loaded, now = self.state(name)
        good = (not active or now == active) and (not load or loaded in load)
        return judge(good, f"{name} is {loaded} and {now}")


def dbus_answer(
    service: str, path: str, interface: str, method: str, arguments: list[str], want: object
) -> Observation:
    """The first value that a D-Bus method answers is WANT."""
    answer = call(service, path, interface, method, *arguments)
    value = answer[0] if isinstance(answer, list) and answer else answer
    if value != want:
        return judge(False, f"{method} of {service} answers {value!r}, not {want!r}")
    return judge(True, f"{method} of {service} answers {value!r}")


def audited(rules: str) -> Observation:
    """The kernel has at least as many audit rules under each key as the image's own file RULES has."""
    wanted = re.findall(rf"^-[aw] .*{AUDIT_KEY}", read_text(rules) or "", re.MULTILINE)
    if not wanted:
        raise Unseen(f"{rules} has no audit rule to hold them against")
    done = run(["auditctl", "-l"], timeout=TIMEOUT)
    if done.code:
        raise Unseen(f"the audit rules are not shown ({done.reason})")
    loaded = re.findall(AUDIT_KEY, done.out)
    short = [key for key in dict.fromkeys(wanted) if loaded.count(key) < wanted.count(key)]
    few = [f"{loaded.count(key)} of {wanted.count(key)} for {key}" for key in short]
    return judge_list(few, "too few audit rules", f"{len(wanted)} audit rules are in force")
