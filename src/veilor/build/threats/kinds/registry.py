"""The kinds of image check by name: what threats/*.toml calls `kind`.

A check returns the problem that it finds, or None. A mutation changes the subject so that the check has to
report a problem; one that finds nothing to change raises BuildError, since it would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from veilor.build.threats.kinds import files, kickstart, settings, trust
from veilor.build.threats.kinds.subject import Mutation


@dataclass(frozen=True)
class Kind:
    """One kind of image check.

    `check(subject, **arguments)` returns the problem or None. `mutations(**arguments)` are the ways to remove
    or weaken the control that it checks; it has to report a problem after each.
    """

    check: Callable[..., str | None]
    mutations: Callable[..., list[Mutation]]


KINDS: dict[str, Kind] = {
    "sysctl": Kind(settings.sysctl, settings.sysctl_mutations),
    "karg": Kind(settings.karg, settings.karg_mutations),
    "ini": Kind(settings.ini, settings.ini_mutations),
    "lines": Kind(files.lines, files.lines_mutations),
    "audit": Kind(files.audit, files.audit_mutations),
    "every": Kind(files.every, files.every_mutations),
    "masked": Kind(files.masked, files.masked_mutations),
    "link": Kind(files.link, files.link_mutations),
    "xml": Kind(files.xml, files.xml_mutations),
    "no-setuid": Kind(files.no_setuid, files.no_setuid_mutations),
    "policy": Kind(trust.policy_intact, trust.policy_mutations),
    "keys": Kind(trust.keys, trust.keys_mutations),
    "floor": Kind(trust.floor, trust.floor_mutations),
    "kickstart": Kind(kickstart.kickstart, kickstart.kickstart_mutations),
    "kickstart-never": Kind(kickstart.kickstart_never, kickstart.kickstart_never_mutations),
}
