"""What is checked before an update is fetched, and what each finding does.

This is the one table for program, help and docs.
"""

import enum
from dataclasses import dataclass
from typing import Any

from veilor.core.outcome import Code


class Does(enum.StrEnum):
    """What a finding does. ASK is for a person at a terminal; where nobody can be asked it is DEFER."""

    GO_ON = "go on"
    ASK = "ask"
    DEFER = "defer"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Row:
    """One row: when it is `seen`, what it `does`, and what is said.

    `now`: whether `--now` goes on all the same. `code`: the exit code when it stops the program. `what`,
    `means`, `next`: sentences for a person with {names} of details, empty where another module words them.
    """

    seen: str
    does: Does
    now: bool
    code: Code
    what: str = ""
    means: str = ""
    next: str = ""


NOW = "`{program} --now` does it all the same"
TABLE = {
    "unfit": Row(
        "the system is not made from an image, has layered packages, follows another image, or somebody "
        "else has staged one",
        Does.REFUSE,
        False,
        Code.UNFIT,
    ),
    "lock": Row("another program is changing the installed versions", Does.DEFER, False, Code.LATER),
    "trust": Row(
        "the container policy, the signature lookup or a key is not as shipped",
        Does.REFUSE,
        False,
        Code.REFUSED,
    ),
    "offline": Row(
        "no network is connected",
        Does.DEFER,
        True,
        Code.LATER,
        "This machine is not connected to a network",
        "nothing was changed",
        "connect it, then try again",
    ),
    "silent": Row(
        "the registry does not answer, a login page is in between, or the clock is wrong",
        Does.DEFER,
        False,
        Code.LATER,
    ),
    "statement": Row(
        "the channel statement is not signed by our key, malformed, for another tag, or older than one seen",
        Does.REFUSE,
        False,
        Code.REFUSED,
    ),
    "stale": Row("the channel statement has run out", Does.GO_ON, False, Code.DONE),
    "clock": Row(
        "the clock is behind a time that is known to have passed",
        Does.GO_ON,
        False,
        Code.DONE,
        "the clock says {clock}, but {known} has passed already: set it, or certificates and dates cannot "
        "be judged",
    ),
    "held": Row(
        "this very version was rolled back from, by hand or by the health check", Does.DEFER, False, Code.DONE
    ),
    "queued": Row("a rollback waits for the restart", Does.DEFER, False, Code.DONE),
    "turn": Row(
        "the release is rolled out step by step, and this machine's turn is later",
        Does.DEFER,
        True,
        Code.LATER,
        "{title} is announced, and this machine's turn is on {when}",
        "it comes by itself then",
        NOW,
    ),
    "ahead": Row(
        "the registry's tag means another image than the announced one",
        Does.DEFER,
        False,
        Code.LATER,
        "{title} is announced, but the registry has another image under its name",
        "a release is being published right now, or somebody has moved the name; nothing was downloaded",
        "it is tried again later",
    ),
    "metered": Row(
        "NetworkManager says that the connection is metered",
        Does.ASK,
        True,
        Code.LATER,
        "The network connection is metered",
        "an update can be some gigabytes",
        NOW,
    ),
    "battery": Row(
        "no mains power and the battery below {BATTERY} %",
        Does.ASK,
        True,
        Code.LATER,
        "The battery is at {percent} % and is not being charged",
        "the update would use much of it",
        NOW,
    ),
    "space": Row(
        "less than {SPACE} GiB free for the system, beyond what ostree keeps free of it (3 % of the disk)",
        Does.ASK,
        True,
        Code.LATER,
        "Only {free} are free for the system, beyond the {reserved} that are never filled",
        "a large update may not fit; it would be given up, and nothing would change",
        NOW + ", or make room first",
    ),
    "full": Row(
        "less than {FULL} MiB free for the system, beyond what ostree keeps free of it",
        Does.REFUSE,
        False,
        Code.FAILED,
        "Only {free} are free for the system, beyond the {reserved} that are never filled",
        "no update fits, so nothing was fetched",
        "remove what is large under /home, and `podman system prune`; then try again",
    ),
    "boot": Row(
        "less room on /boot than a kernel and its initramfs take, even when the oldest goes ({BOOT} MiB "
        "where there is none yet)",
        Does.ASK,
        True,
        Code.LATER,
        "Only {free} are free on /boot, and the next version needs {need}",
        "it would be downloaded and then not be put in place",
        "remove from /boot what does not belong there, or unpin an old version; " + NOW,
    ),
}
BATTERY, SPACE, FULL, BOOT = 25, 3, 512, 300  # per cent, GiB, MiB, MiB
LIMITS = {"BATTERY": BATTERY, "SPACE": SPACE, "FULL": FULL, "BOOT": BOOT}


@dataclass(frozen=True)
class PreflightFinding:
    """A row of TABLE that was found, with the sentences filled in."""

    name: str
    row: Row
    what: str
    means: str
    next: str
    details: dict[str, Any]


def found(name: str, **details: object) -> PreflightFinding:
    """The finding NAME with DETAILS for its sentences."""
    row = TABLE[name]
    what, means, then = (text.format(**details) for text in (row.what, row.means, row.next))
    return PreflightFinding(name, row, what, means, then, details)


def judge(
    findings: list[PreflightFinding], now: bool, can_ask: bool
) -> tuple[PreflightFinding | None, list[PreflightFinding], list[str]]:
    """What FINDINGS come to: the gravest that stops the program, those to ask about, and warnings.

    NOW: --now was given. CAN_ASK: a person is at a terminal.
    """
    rank = [Does.REFUSE, Does.DEFER, Does.ASK]
    stops: list[PreflightFinding] = []
    asks: list[PreflightFinding] = []
    warnings: list[str] = []
    for finding in findings:
        does = finding.row.does
        if does is Does.GO_ON:
            warnings.append(finding.what)
        elif now and finding.row.now:
            warnings.append(finding.what)
        elif does is Does.ASK and can_ask:
            asks.append(finding)
        else:
            stops.append(finding)
    stops.sort(key=lambda finding: rank.index(finding.row.does))
    return (stops[0] if stops else None), asks, warnings


def rows() -> list[tuple[str, str, str, str, str]]:
    """TABLE for people: name, when it is seen, what it does, whether --now goes on, exit code."""
    return [
        (
            name,
            row.seen.format(**LIMITS),
            row.does.value + (" (where nobody can be asked: defer)" if row.does is Does.ASK else ""),
            "goes on" if row.now else "no" if row.does is not Does.GO_ON else "-",
            str(int(row.code)),
        )
        for name, row in TABLE.items()
    ]
