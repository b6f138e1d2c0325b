"""veilor-doctor: looks whether what the threat model claims of this machine holds, and says what mends it. It
only reads.
"""

import argparse
import os
from collections.abc import Callable

from veilor.core import claims
from veilor.core.claims import Check, Claim, Status
from veilor.core.outcome import Code, Outcome
from veilor.device import channel, tell
from veilor.device.doctor import disk, kernel, network, services, trust
from veilor.device.doctor.observation import Observation, Unseen, not_applicable
from veilor.device.run import DeviceError, at

PLAIN: dict[str, Callable[..., Observation]] = {
    "sysctl": kernel.sysctl,
    "karg": kernel.karg,
    "no-karg": kernel.no_karg,
    "lockdown": kernel.lockdown,
    "modules-signed": kernel.modules_signed,
    "modules-out": kernel.modules_out,
    "selinux": kernel.selinux,
    "mapped": kernel.mapped,
    "secure-boot": kernel.secure_boot,
    "usb-waits": kernel.usb_waits,
    "encrypted": disk.encrypted,
    "swap-safe": disk.swap_safe,
    "read-only": disk.read_only,
    "setuid": disk.setuid,
    "label": disk.label,
    "first-said": disk.first_said,
    "dbus-answer": services.dbus_answer,
    "audited": services.audited,
    "listening": network.listening,
    "zones": network.zones,
    "every-source": network.every_source,
    "says": network.says,
    "statement-remembered": trust.statement_remembered,
    "asked-first": trust.asked_first,
}
OF_THE_PRODUCT = {
    "image-verified": trust.image_verified,
    "policy-intact": trust.policy_intact,
    "keys-as-shipped": trust.keys_as_shipped,
}
KINDS = {*PLAIN, *OF_THE_PRODUCT, "unit"}


def load() -> tuple[Claim, ...]:
    """The claims that this image makes. Raises DeviceError when they are missing or damaged."""
    try:
        return claims.parse(at(claims.PATH).read_text())
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"{claims.PATH} cannot be used ({error})",
            "nothing can be said about this machine",
            "the system's files are damaged; see veilor-status, and veilor-rollback if it came with an "
            "update",
        ) from None


def look(check: Check, units: services.Units) -> Observation:
    """Make one CHECK; what goes wrong in the looking is UNKNOWN."""
    try:
        if check.when and not at(check.when).exists():
            return not_applicable(check.otherwise)
        if check.kind == "unit":
            return units.unit(**check.arguments)
        if check.kind in OF_THE_PRODUCT:
            return OF_THE_PRODUCT[check.kind](channel.product())
        return PLAIN[check.kind](**check.arguments)
    except Unseen as error:
        return Observation(Status.UNKNOWN, str(error))
    except DeviceError as error:
        return Observation(Status.UNKNOWN, error.outcome.what)
    except (
        Exception
    ) as error:  # a claim that cannot be looked at is unknown, and the others are still looked at
        return Observation(
            Status.UNKNOWN, f"a fault in veilor-doctor itself ({type(error).__name__}: {str(error)[:120]})"
        )


def examine(all_: tuple[Claim, ...]) -> list[dict]:
    """Every claim that this machine shows something of, with its status and each
    check's, as data for --json.
    """
    units = services.Units(
        [check.arguments["name"] for claim in all_ for check in claim.checks if check.kind == "unit"]
    )
    found = []
    for claim in all_:
        seen = [(check, look(check, units)) for check in claim.checks]
        if claim.state == "opt-in":  # a choice that was not made is no failure
            seen = [
                (
                    check,
                    not_applicable(f"not chosen: {finding.reason}")
                    if finding.status is Status.FAIL
                    else finding,
                )
                for check, finding in seen
            ]
        status = claims.worst(finding.status for _, finding in seen)
        if status:
            found.append(
                {
                    "id": claim.id,
                    "adversary": claim.adversary,
                    "says": claim.says,
                    "state": claim.state,
                    "status": str(status),
                    "checks": [
                        {
                            "id": check.id,
                            "status": str(finding.status),
                            "reason": finding.reason,
                            "mend": check.mend if finding.status in (Status.FAIL, Status.UNKNOWN) else "",
                        }
                        for check, finding in seen
                    ],
                }
            )
    return found


def lines(found: list[dict], everything: bool) -> list[str]:
    """A line for each claim, and below it what is wrong, unknown or not chosen; with EVERYTHING all that was
    seen.
    """
    said = []
    for claim in sorted(found, key=lambda one: -list(Status).index(Status(one["status"]))):
        said.append(f"{claim['status']:15} {claim['id']}: {claim['says']}")
        for check in claim["checks"]:
            if everything or check["status"] != Status.PASS:
                said.append(
                    f"{'':15}   {check['reason']}" + (f"; to mend: {check['mend']}" if check["mend"] else "")
                )
    return said


def report(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS."""
    all_ = load()
    wanted = [claim for claim in all_ if not args.claim or claim.id in args.claim]
    strange = sorted(set(args.claim or ()) - {claim.id for claim in all_})
    if strange:
        raise DeviceError(
            f"No claim is called {', '.join(strange)}",
            "nothing was looked at",
            "veilor-doctor --list names them",
            Code.USAGE,
        )
    if args.list:
        if not args.json:
            print("\n".join(f"{claim.id:34} {claim.state:13} {claim.says}" for claim in wanted))
        return Outcome(
            Code.DONE,
            f"{len(wanted)} claims",
            facts={
                "claims": [
                    {"id": claim.id, "adversary": claim.adversary, "says": claim.says, "state": claim.state}
                    for claim in wanted
                ]
            },
        )
    found = examine(tuple(wanted))
    silent = [claim.id for claim in wanted if not claim.checks]
    if not args.json:
        print("\n".join(lines(found, everything=bool(args.claim))))
    counts = {str(status): sum(one["status"] == status for one in found) for status in Status}
    facts = {"claims": found, "counts": counts, "not_visible_here": silent}
    summary = (
        ", ".join(f"{number} {name}" for name, number in counts.items() if number)
        or "nothing that a machine could show"
    )
    if counts[Status.FAIL]:
        return Outcome(
            Code.FAILED,
            f"Not every claim holds on this machine: {summary}",
            "",
            "each line above says what mends it",
            facts,
        )
    if counts[Status.UNKNOWN]:
        hint = "" if os.geteuid() == 0 else "start it with sudo to see more"
        return Outcome(
            Code.UNSEEN, f"Nothing seen is wrong, but not all could be seen: {summary}", "", hint, facts
        )
    return Outcome(Code.DONE, f"Everything that can be seen here holds: {summary}", facts=facts)


def make_parser() -> argparse.ArgumentParser:
    """The command line of veilor-doctor."""
    parser = tell.parser(
        "veilor-doctor",
        "Looks whether what docs/THREAT-MODEL.md claims of this machine holds. Changes nothing; "
        "without root some claims stay UNKNOWN.",
        Code.UNSEEN,
    )
    parser.add_argument(
        "--claim",
        action="append",
        metavar="ID",
        help="look at this claim alone, and tell everything; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="name the claims, and look at nothing")
    return parser


def main(argv: list[str]) -> int:
    """The program veilor-doctor."""
    return tell.conclude(make_parser(), argv, report)
