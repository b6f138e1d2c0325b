"""Looks at services, asked over D-Bus through busctl: systemd's own answers, no prose."""

import json
import re

from veilor.device.doctor.observation import Observation, Unseen, judge, read_text
from veilor.device.run import DeviceError, run

MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
TIMEOUT = 10.0


def call(service: str, path: str, interface: str, member: str, *arguments: str) -> list:
    """What the method MEMBER answers, as data. Raises Unseen when the service is not there, refuses or is
    silent.
    """
    return _ask(["call", service, path, interface, member, *arguments], f"{service} {member}")


def _ask(argv: list[str], what: str):
    try:
        done = run(["busctl", "--system", "--json=short", "--no-pager", *argv], timeout=TIMEOUT)
    except DeviceError as error:
        raise Unseen(error.outcome.what) from None
    if done.code:
        raise Unseen(f"{what}: {done.reason}")
    try:
        return json.loads(done.out)["data"]
    except (ValueError, LookupError, TypeError):
        raise Unseen(f"{what}: answered what cannot be understood") from None


class Units:
    """States of units, asked of systemd in one question for all that the claims name."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.found, self.silence = sorted(set(names)), None, ""

    def state(self, name: str) -> tuple[str, str]:
        """Load state (loaded, masked, not-found) and active state (active, inactive, failed) of the unit
        NAME.
        """
        if self.found is None:
            self.found = {}
            # ListUnitsByNames: name, description, load, active, sub state, … (org.freedesktop.systemd1(5)),
            # in the asked order
            try:
                rows = call(*MANAGER, "ListUnitsByNames", "as", str(len(self.names)), *self.names)[0]
                asked = (
                    self.names if len(rows) == len(self.names) else [row[0] for row in rows]
                )  # an alias is answered by its own name
                self.found = {name: (row[2], row[3]) for name, row in zip(asked, rows, strict=True)}
            except Unseen as error:
                self.silence = str(error)
            except (LookupError, TypeError):
                self.silence = "systemd answered what cannot be understood"
        if name not in self.found:
            raise Unseen(self.silence or f"systemd says nothing of {name}")
        return self.found[name]

    def unit(self, name: str, active: str = "", load: list[str] = ()) -> Observation:
        """The unit NAME is in the ACTIVE state and in one of the LOAD states, where they are given."""
        loaded, now = self.state(name)
        good = (not active or now == active) and (not load or loaded in load)
        return judge(good, f"{name} is {loaded} and {now}")


def dbus_answer(
    service: str, path: str, interface: str, method: str, arguments: list[str], want
) -> Observation:
    """The first value that a method answers is WANT."""
    answer = call(service, path, interface, method, *arguments)
    value = answer[0] if isinstance(answer, list) and answer else answer
    return judge(
        value == want,
        f"{method} of {service} answers {value!r}" + ("" if value == want else f", not {want!r}"),
    )


def audited(rules: str) -> Observation:
    """The kernel has been given as many audit rules under each key as the file RULES has, the image's own, or
    more.
    """
    wanted = re.findall(r"^-[aw] .*(?:\bkey=|\s-k\s+)(\S+)", read_text(rules) or "", re.MULTILINE)
    if not wanted:
        raise Unseen(f"{rules} has no audit rule to hold them against")
    done = run(["auditctl", "-l"], timeout=TIMEOUT)
    if done.code:
        raise Unseen(f"the audit rules are not shown ({done.reason})")
    given = re.findall(r"(?:\bkey=|\s-k\s+)(\S+)", done.out)  # the two forms in which auditctl writes a rule
    few = [
        f"{given.count(key)} of {wanted.count(key)} for {key}"
        for key in dict.fromkeys(wanted)
        if given.count(key) < wanted.count(key)
    ]
    return judge(
        not few,
        f"too few audit rules: {', '.join(few)}" if few else f"{len(wanted)} audit rules are in force",
    )
