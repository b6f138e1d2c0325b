"""Fetches the channel statement under the machine's container policy and judges it against what was seen."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from veilor.core import policy, statement
from veilor.core.host import Entry
from veilor.core.image import is_digest
from veilor.core.outcome import Code
from veilor.core.product import Product, load
from veilor.core.statement import Statement
from veilor.device import network, state
from veilor.device.run import KEPT, DeviceError, at, failure_code, run

PRODUCT = "/usr/lib/veilor/product.toml"
FLOOR = "/usr/lib/veilor/channel-floor.json"
POLICY = "/etc/containers/policy.json"
REGISTRIES = "/etc/containers/registries.d"
TIMEOUT = 60.0  # seconds for a few kilobytes
LONG_ABSENCE = timedelta(days=180)
T = TypeVar("T")
LEADS_BACK = (
    "somebody may be trying to lead this machine back to an old version; nothing was changed",
    "it is checked again later",
)
RAN_OUT = (
    "it may be an old one that somebody plays again, or this machine's clock is wrong; nothing was changed",
    "see whether the clock is right; it is checked again later",
)
ROTATED = (
    "this machine has heard no news for so long that both keys it knows may have been replaced; it keeps "
    "what it runs",
    "read on the product's web site which keys are in use; when both are new, back up and install from a "
    "current medium",
)


def product() -> Product:
    """The product's facts from this system. Raises DeviceError."""
    try:
        return load(at(PRODUCT))
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"{PRODUCT} cannot be used ({error})",
            "this system does not know which image it follows",
            "restart into the previous version, or reinstall",
        ) from None


def trust_problems(facts: Product) -> list[str]:
    """What keeps this machine from verifying images: policy, signature lookup, keys.

    No sentence when all is intact.
    """
    try:
        found = policy.problems(at(POLICY).read_text(), facts)
    except (OSError, ValueError):
        found = [f"{POLICY} cannot be read"]
    try:
        said = at(f"{REGISTRIES}/veilor.yaml").read_text()
    except (OSError, ValueError):
        said = ""
    if policy.render_registries(facts) not in said:
        found.append(f"{REGISTRIES}/veilor.yaml no longer says where the signatures are")
    for keys in policy.scopes(facts).values():
        for path in keys:
            if not is_public_key(path):
                found.append(f"the key {path} is missing or damaged")
    return found


def is_public_key(path: str) -> bool:
    """Whether the file at PATH can be read and looks like a public key."""
    try:
        return b"-----BEGIN PUBLIC KEY-----" in at(path).read_bytes()
    except OSError:
        return False


def require_trust(facts: Product) -> None:
    """Raise DeviceError (REFUSED) when this machine could not verify what it fetches."""
    found = trust_problems(facts)
    if found:
        raise DeviceError(
            f"Nothing is fetched: {'; '.join(found)}",
            "what comes from the registry could not be verified",
            f"put the shipped file back: cp -a /usr{POLICY} {POLICY} (same for registries.d)",
            Code.REFUSED,
        )


def floor() -> tuple[int, int]:
    """Epoch and sequence of the oldest statement that this system accepts. Raises DeviceError."""
    try:
        data = json.loads(at(FLOOR).read_bytes())
        epoch, sequence = data.get("epoch", 0), data["sequence"]
        for number in (epoch, sequence):
            if not isinstance(number, int) or isinstance(number, bool):
                raise ValueError("epoch or sequence is not a number")
        return epoch, sequence
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise DeviceError(
            f"{FLOOR} cannot be used ({error})",
            "an old statement could not be told from a new one",
            "restart into the previous version",
            Code.REFUSED,
        ) from None


def announced(facts: Product, running: Entry) -> tuple[Statement, tuple[str, ...]]:
    """The statement of the product's channel for the machine that runs RUNNING, with warnings.

    It is verified, not older than any seen, and recorded as seen; `withdrawn` in it is all that was withdrawn
    so far. Raises DeviceError: LATER when nobody answers, REFUSED when it must not be followed.
    """
    require_trust(facts)
    lowest, seen = floor(), state.newest_statement_seen(facts.tag)
    said = fetch_statement(facts)
    if said.epoch > lowest[0]:
        # The first key is in use every day and may be stolen; a new epoch is the way back from that.
        said = fetch_statement(facts, policy.render(replace(facts, channel_keys=facts.channel_keys[1:])))
    late = statement.expired(said, datetime.now(UTC))
    try:
        statement.check_target(said, facts.image_repo, facts.tag)
        statement.check_sequence(said, seen, lowest)
        if late and not (running.digest == said.digest and running.follows(facts.image_ref)):
            statement.check_late(said, seen, running.version, state.parse_time(running.timestamp))
    except statement.Refused as error:
        means, then = RAN_OUT if isinstance(error, statement.RefusedLate) else LEADS_BACK
        raise DeviceError(f"Refused: {error}", means, then, Code.REFUSED) from None
    state.record_statement(said)
    said = replace(said, withdrawn=tuple(state.withdrawn(facts.tag) - {said.digest}))
    return said, ((statement.stale_words(late),) if late else ())


def fetch_statement(facts: Product, rules: str | None = None) -> Statement:
    """The channel's statement, verified by the machine's policy, or by one with the text RULES.

    Raises DeviceError.
    """
    return fetch(
        facts.channel_ref,
        lambda folder: statement.parse(read_layer(folder)),
        "the channel statement",
        rules=rules,
    )


def stale() -> timedelta | None:
    """How long the newest statement ever seen has been out of date, or None; needs no network."""
    try:
        expires, now = state.known_until(product().tag), datetime.now(UTC)
    except DeviceError:  # whoever asks for news is told that
        return None
    return now - expires if expires and now > expires else None


def digest_of_tag(reference: str) -> str | None:
    """The digest that REFERENCE means in its registry now, for one manifest; None when that cannot be told.

    Nothing is trusted for it: it only spares a download that would be thrown away.
    """
    done = run(["skopeo", "inspect", "--raw", f"docker://{reference}"], timeout=TIMEOUT)
    raw = done.out.encode()
    if done.code or len(raw) >= KEPT:  # of more, only the end was kept
        return None
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def fetch(
    reference: str,
    read: Callable[[str], T],
    what: str,
    largest: int = 2 * statement.LIMIT,
    rules: str | None = None,
) -> T:
    """What READ makes of the folder with the artefact behind REFERENCE.

    The container policy decides whether it is genuine, or one with the text RULES. WHAT it is, for sentences.
    None of its blobs may have more than LARGEST bytes: skopeo writes what a registry sends, whatever size the
    manifest names. READ raises OSError or ValueError when it can't be understood. Raises DeviceError.
    """
    scratch = at(state.RUN) if os.geteuid() == 0 else at("/tmp")
    scratch.mkdir(parents=True, exist_ok=True)
    top = Path(tempfile.mkdtemp(prefix="channel-", dir=scratch))
    folder, trusted = str(top / "artefact"), at(POLICY)
    try:
        os.mkdir(folder)
        if rules is not None:
            trusted = top / "policy.json"
            trusted.write_text(rules)
        # Both are the defaults, said so that nothing in root's home can take their place.
        argv = ["skopeo", f"--policy={trusted}", f"--registries.d={at(REGISTRIES)}", "copy", "--quiet"]
        done = run([*argv, f"docker://{reference}", f"dir:{folder}"], timeout=TIMEOUT, largest_file=largest)
        if done.code and any(path.stat().st_size >= largest for path in Path(folder).rglob("*")):
            raise DeviceError(
                f"Refused: the registry sends more than {what} can have",
                "nothing was changed",
                "it is checked again later",
                Code.REFUSED,
            )
        if done.code and failure_code(done.err) is Code.REFUSED:
            late = stale()
            means, then = "nothing was changed", "it is checked again later"
            if late and late > LONG_ABSENCE:
                means, then = ROTATED
            raise DeviceError(
                f"Refused: {what} could not be verified ({done.reason})", means, then, Code.REFUSED
            )
        if "manifest unknown" in done.err:
            raise DeviceError(
                f"The registry does not have {what}",
                "nothing was changed",
                "it is looked for again later",
                Code.LATER,
                {"network": "answers"},
            )
        if done.code:
            between = network.probe(reference.split("/")[0])
            why, then = network.EXPLAINED[between]
            raise DeviceError(
                f"The update channel does not answer ({done.reason})",
                f"{why}; nothing was changed",
                then,
                Code.LATER,
                {"network": between},
            )
        try:
            return read(folder)
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"Refused: {what} cannot be understood ({error})",
                "nothing was changed",
                "it is checked again later",
                Code.REFUSED,
            ) from None
    finally:
        shutil.rmtree(top, ignore_errors=True)


def read_layer(folder: str) -> bytes:
    """The one layer of the artefact that skopeo left in FOLDER. Raises OSError, ValueError."""
    with open(f"{folder}/manifest.json", "rb") as file:
        try:
            manifest = json.loads(file.read(statement.LIMIT))
            [layer] = manifest["layers"]
            digest = layer["digest"]
        except (RecursionError, LookupError, TypeError):
            raise ValueError("its manifest does not have one layer") from None
    if not is_digest(digest):
        raise ValueError("its layer has no digest")
    with open(f"{folder}/{digest.removeprefix('sha256:')}", "rb") as file:
        raw = file.read(statement.LIMIT + 1)
    if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
        raise ValueError("its layer is longer than a statement, or damaged")
    return raw
