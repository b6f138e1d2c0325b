"""Checks of what is trusted: the booted image, the container policy, the keys, the memory of statements."""

import hashlib
import json
import os
from typing import Any

from veilor.core import policy
from veilor.core.product import Product
from veilor.device import bootc, firstboot, state
from veilor.device.doctor.observation import Observation, Unseen, judge, judge_list, read_bytes, read_text
from veilor.device.run import DeviceError, at
from veilor.device.shipped import compare

# polkit reads the rules of all four folders by name; at one name they are asked in this order.
OUR_RULES = "/usr/share/polkit-1/rules.d"
RULES = ["/etc/polkit-1/rules.d", "/run/polkit-1/rules.d", "/usr/local/share/polkit-1/rules.d", OUR_RULES]
ASKS_ADMIN = "return polkit.Result.AUTH_ADMIN;"
FLOOR = "/usr/lib/veilor/channel-floor.json"


def announced_digests() -> set[str]:
    """Digests that a verified statement announced to this machine, as far as its own records still tell.

    From the newest statement seen, the first boot's stamp, and the versions that the health check is armed
    for or found healthy. Raises Unseen when a record cannot be read.
    """
    try:
        health = _read_record(state.HEALTH)
        entries = [
            *_channels(),
            _read_record(firstboot.STAMP),
            state.get_dict(state.get_dict(health, "armed"), "target"),
            *state.get_list(health, "healthy"),
        ]
        return {entry["digest"] for entry in entries if entry.get("digest")}
    except (ValueError, RecursionError, TypeError, AttributeError):
        raise Unseen("what this machine remembers of its releases cannot be understood") from None


def _channels() -> list[dict[str, Any]]:
    """What is remembered of each tag's channel. Raises ValueError, AttributeError and Unseen."""
    memory = _read_record(state.STATE)
    return [*memory.get("channels", {}).values(), memory.get("channel", {})]


def _read_record(path: str) -> dict[str, Any]:
    """The JSON object in the file at PATH; an empty one when there is none. Raises ValueError and Unseen."""
    found = json.loads(read_text(path) or "{}")
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not an object")
    return found


def image_verified(product: Product) -> Observation:
    """What runs is the product's image from its registry, verified by the container policy, and announced.

    bootc says how it was fetched; this machine's own records say whether it was announced.
    """
    try:
        booted = bootc.status().booted
    except DeviceError as error:
        raise Unseen(error.outcome.what[:1].lower() + error.outcome.what[1:]) from None
    if booted is None:
        return judge(False, "this system is not one that is replaced as a whole")
    seen = f"runs {booted.reference} from {booted.transport}, verified by {booted.signature or 'nothing'}"
    if not booted.follows(product.image_ref):
        return judge(False, seen)
    if booted.digest not in announced_digests():
        raise Unseen(
            f"{seen}; but nothing here remembers that {booted.digest} was announced: it may have been "
            "fetched by hand"
        )
    return judge(True, seen)


def policy_intact(product: Product) -> Observation:
    """The machine's container policy refuses by default and asks for our signatures."""
    text = read_text("/etc/containers/policy.json")
    if text is None:
        return judge(False, "there is no container policy")
    problems = policy.problems(text, product)
    return judge(not problems, "; ".join(problems) or "nothing is taken but what our keys signed")


def keys_as_shipped(product: Product) -> Observation:
    """Each of the policy's keys has the hash that was written down when the image was made."""
    shipped = {}
    for line in (read_text(policy.SUMS) or "").splitlines():  # as sha256sum writes: the hash, then the path
        total, _, path = line.partition(" ")
        shipped[path.strip()] = total
    paths = [path for scope in policy.scopes(product).values() for path in scope]
    other = []
    for path in paths:
        content = read_bytes(path)
        if content is None or shipped.get(path) != hashlib.sha256(content).hexdigest():
            other.append(path)
    return judge_list(
        other, "missing, or not as it was shipped", f"{len(paths)} keys, each as it was shipped"
    )


def as_shipped(names: list[str]) -> Observation:
    """/etc has of NAMES, paths from there, just what the image has of them, whether anything or nothing.

    What a person opens in the firewall is their own, and named.
    """
    try:
        found = compare.differences(names)
    except PermissionError as error:
        raise Unseen(f"only root may read {error.filename}") from None
    if not at(compare.IMAGE_ETC).is_dir():
        raise Unseen(f"there is no {compare.IMAGE_ETC} to hold /etc against")
    strange = {name: how for name, how in found.items() if not name.startswith(compare.OPENED)}
    seen = compare.sentence(strange or found) or f"{len(names)} in /etc, each as the image has it"
    return judge(not strange, seen if strange or not found else f"the rest is the image's; opened: {seen}")


def asked_first(ours: list[str]) -> Observation:
    """polkit asks our rules, the files OURS, before any other, and they still ask for a password.

    It goes by the files' names, and the first rule that answers decides.
    """
    wrong: list[str] = []
    hidden: list[str] = []
    for folder in RULES:
        try:
            names = sorted(os.listdir(at(folder)))
        except FileNotFoundError:
            continue
        except OSError as error:
            hidden.append(f"{folder} ({error.strerror})")
            continue
        earlier = [name for name in names if _is_earlier(folder, name, ours)]
        wrong += [f"{folder}/{name} is asked before them" for name in earlier]
    for name in ours:
        if ASKS_ADMIN not in (read_text(f"{OUR_RULES}/{name}") or ""):
            wrong.append(f"{name} asks for no password")
    if hidden and not wrong:
        raise Unseen(f"cannot be looked into: {', '.join(hidden)}")
    return judge(not wrong, "; ".join(wrong) or f"{' and '.join(ours)} are asked first")


def _is_earlier(folder: str, name: str, ours: list[str]) -> bool:
    """Whether polkit reads the file NAME of FOLDER before the last of OURS, and it is none of them."""
    if not name.endswith(".rules"):
        return False
    if name > max(ours):
        return False
    return folder != OUR_RULES or name not in ours


def statement_remembered(product: Product) -> Observation:
    """The newest statement ever seen is no older than the image's floor, so an older one is refused."""
    try:
        data = json.loads(read_text(FLOOR) or "null")
        floor = data.get("epoch", 0), data["sequence"]
        memory = state.channel_record(_read_record(state.STATE), product.tag)
        seen = memory.get("epoch", floor[0]), memory.get("sequence", floor[1])
        right = (0, 0) <= floor <= seen
    except (ValueError, TypeError, LookupError, AttributeError):
        return judge(False, f"{FLOOR} or {state.STATE} cannot be understood")
    numbers = f"statements below {seen[1]!r} of epoch {seen[0]!r} (floor {floor[1]!r} of {floor[0]!r})"
    return judge(right, f"{numbers} are refused")
