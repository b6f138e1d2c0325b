"""veilor-doctor: checks whether what the threat model claims of this machine holds, and says what fixes it.

It only reads.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from veilor.core import claims
from veilor.core.claims import Check, Claim, Status
from veilor.core.outcome import Code, Outcome
from veilor.core.product import Product
from veilor.device import channel, clock, tell
from veilor.device.doctor import disk, kernel, network, services, trust
from veilor.device.doctor.observation import Observation, Unseen, not_applicable
from veilor.device.run import DeviceError, at

# The kinds of check that claims name, each with its function; its arguments are the check's own.
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
    "asked-first": trust.asked_first,
    "as-shipped": trust.as_shipped,
}
# Those that are held against the product's own names and keys.
OF_THE_PRODUCT: dict[str, Callable[[Product], Observation]] = {
    "image-verified": trust.image_verified,
    "policy-intact": trust.policy_intact,
    "keys-as-shipped": trust.keys_as_shipped,
    "statement-remembered": trust.statement_remembered,
}
KINDS = {*PLAIN, *OF_THE_PRODUCT, "unit"}


@dataclass(frozen=True)
class CheckResult:
    """A check of a claim, as --json has it. `mend`: what fixes it; empty where nothing is to be fixed."""

    id: str
    status: Status
    reason: str
    mend: str


@dataclass(frozen=True)
class ClaimResult:
    """A claim with the worst status of its checks, as --json has it."""

    id: str
    adversary: str
    says: str
    state: str
    status: Status
    checks: tuple[CheckResult, ...]


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


def observe(check: Check, units: services.Units) -> Observation:
    """What CHECK sees on this machine. Whatever goes wrong in it is UNKNOWN, and raises nothing."""
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
    except Exception as error:  # whatever it is, the other claims are still checked
        fault = f"{type(error).__name__}: {str(error)[:120]}"
        return Observation(Status.UNKNOWN, f"a fault in veilor-doctor itself ({fault})")


def result_of(check: Check, state: str, units: services.Units) -> CheckResult:
    """The result of CHECK for a claim in STATE ("enforced", "opt-in", …)."""
    seen = observe(check, units)
    if state == "opt-in" and seen.status is Status.FAIL:
        seen = not_applicable(f"not chosen: {seen.reason}")  # a choice that was not made is no failure
    to_fix = seen.status in (Status.FAIL, Status.UNKNOWN)
    return CheckResult(check.id, seen.status, seen.reason, check.mend if to_fix else "")


def examine(wanted: tuple[Claim, ...]) -> list[ClaimResult]:
    """The result of every claim WANTED that has a check, in order."""
    checks = [check for claim in wanted for check in claim.checks]
    units = services.Units([check.arguments["name"] for check in checks if check.kind == "unit"])
    found = []
    for claim in wanted:
        results = tuple(result_of(check, claim.state, units) for check in claim.checks)
        status = claims.worst(result.status for result in results)
        if status:
            found.append(ClaimResult(claim.id, claim.adversary, claim.says, claim.state, status, results))
    return found


def lines(found: list[ClaimResult], everything: bool) -> list[str]:
    """FOUND for people: a line for each claim, the worst first, and below it what did not PASS.

    With EVERYTHING each check has its line.
    """
    text = []
    for claim in sorted(found, key=lambda one: -list(Status).index(one.status)):
        text.append(f"{claim.status:15} {claim.id}: {claim.says}")
        for check in claim.checks:
            if everything or check.status is not Status.PASS:
                text.append(f"{'':15}   {check.reason}" + (f"; to fix: {check.mend}" if check.mend else ""))
    return text


def report(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS. Raises DeviceError."""
    every = load()
    wanted = tuple(claim for claim in every if not args.claim or claim.id in args.claim)
    strange = sorted(set(args.claim or ()) - {claim.id for claim in every})
    if strange:
        raise DeviceError(
            f"No claim is called {', '.join(strange)}",
            "nothing was checked",
            "veilor-doctor --list names them",
            Code.USAGE,
        )
    if args.list:
        return list_claims(wanted, args.json)
    found = examine(wanted)
    if not args.json:
        print("\n".join(lines(found, everything=bool(args.claim))))
    warnings = (clock.NOT_SET,) if clock.is_synchronised() is False else ()
    return replace(conclude(found, silent=[one.id for one in wanted if not one.checks]), warnings=warnings)


def list_claims(wanted: tuple[Claim, ...], as_json: bool) -> Outcome:
    """Name the claims WANTED without checking them."""
    if not as_json:
        print("\n".join(f"{claim.id:34} {claim.state:13} {claim.says}" for claim in wanted))
    named = [
        {"id": claim.id, "adversary": claim.adversary, "says": claim.says, "state": claim.state}
        for claim in wanted
    ]
    return Outcome(Code.DONE, f"{len(wanted)} claims", facts={"claims": named})


def conclude(found: list[ClaimResult], silent: list[str]) -> Outcome:
    """The outcome of the results FOUND; SILENT: the claims of which a running machine shows nothing."""
    counts = {status: sum(claim.status is status for claim in found) for status in Status}
    facts = {"claims": [asdict(claim) for claim in found], "counts": counts, "not_visible_here": silent}
    seen = [f"{number} {status}" for status, number in counts.items() if number]
    summary = ", ".join(seen) or "nothing that a machine could show"
    if counts[Status.FAIL]:
        return Outcome(
            Code.FAILED,
            f"Not every claim holds on this machine: {summary}",
            "",
            "each line above says what fixes it",
            facts,
        )
    if counts[Status.UNKNOWN]:
        return Outcome(
            Code.UNSEEN,
            f"Nothing seen is wrong, but not all could be seen: {summary}",
            "",
            "" if os.geteuid() == 0 else "start it with sudo to see more",
            facts,
        )
    return Outcome(Code.DONE, f"Everything that can be seen here holds: {summary}", facts=facts)


def make_parser() -> argparse.ArgumentParser:
    """The command line of veilor-doctor."""
    parser = tell.parser(
        "veilor-doctor",
        "Checks whether what docs/THREAT-MODEL.md claims of this machine holds. Changes nothing; "
        "without root some claims stay UNKNOWN.",
        Code.UNSEEN,
    )
    parser.add_argument(
        "--claim",
        action="append",
        metavar="ID",
        help="check this claim alone, and say everything that was seen; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="name the claims, and check nothing")
    return parser


def main(argv: list[str]) -> int:
    """The program veilor-doctor."""
    return tell.conclude(make_parser(), argv, report)
