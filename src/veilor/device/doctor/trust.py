"""Looks at what is trusted: the booted image, the container policy, the keys, the memory of statements."""

import hashlib
import json
import os

from veilor.core import policy
from veilor.core.product import Product
from veilor.device import bootc, firstboot, state
from veilor.device.doctor.observation import Observation, Unseen, judge, read_bytes, read_text
from veilor.device.run import DeviceError, at

RULES = [
    f"{place}/polkit-1/rules.d" for place in ("/etc", "/run", "/usr/local/share", "/usr/share")
]  # polkit's order at one name
FLOOR = "/usr/lib/veilor/channel-floor.json"


def known() -> set[str]:
    """Digests that a verified statement announced to this machine, as far as its own records still tell.
    Raises Unseen.
    """
    try:
        seen, health, first = (
            json.loads(read_text(path) or "{}") for path in (state.STATE, state.HEALTH, firstboot.STAMP)
        )
        targets = [
            state.get_dict(state.get_dict(health, "armed"), "target"),
            *state.get_list(health, "healthy"),
        ]
        return {one.get("digest") for one in (state.get_dict(seen, "channel"), first, *targets)} - {None}
    except (ValueError, RecursionError, TypeError, AttributeError):
        raise Unseen("what this machine remembers of its releases cannot be understood") from None


def image_verified(product: Product) -> Observation:
    """What runs is the product's image from its registry, fetched under the container policy (asked of
    bootc), and announced.
    """
    try:
        booted = bootc.status().booted
    except DeviceError as error:
        raise Unseen(error.outcome.what[:1].lower() + error.outcome.what[1:]) from None
    if booted is None:
        return judge(False, "this system is not one that is replaced as a whole")
    good = booted.follows(product.image_ref)
    seen = f"runs {booted.reference} from {booted.transport}, verified by {booted.signature or 'nothing'}"
    if good and booted.digest not in known():
        raise Unseen(
            f"{seen}; but nothing here remembers that {booted.digest} was announced: it may have been "
            "fetched by hand"
        )
    return judge(good, seen)


def policy_intact(product: Product) -> Observation:
    """The machine's container policy refuses by default and asks for our signatures."""
    text = read_text("/etc/containers/policy.json")
    found = ["there is no container policy"] if text is None else policy.problems(text, product)
    return judge(not found, "; ".join(found) or "nothing is taken but what our keys signed")


def keys_as_shipped(product: Product) -> Observation:
    """The policy's keys are those that the image was made with: each has the
    hash that was written down then.
    """
    paths = [path for some in policy.scopes(product).values() for path in some]
    shipped = dict(
        reversed(line.split(maxsplit=1))
        for line in (read_text(policy.SUMS) or "").splitlines()
        if " " in line
    )
    other = [
        path for path in paths if shipped.get(path) != hashlib.sha256(read_bytes(path) or b"").hexdigest()
    ]
    return judge(
        not other,
        f"missing, or not as it was shipped: {', '.join(other)}"
        if other
        else f"{len(paths)} keys, each as it was shipped",
    )


def asked_first(ours: list[str]) -> Observation:
    """polkit asks our rules, the files OURS, before any other: it goes by name, and the first that answers
    decides.
    """
    earlier, hidden = [], []
    for folder in RULES:
        try:
            names = [
                name
                for name in sorted(os.listdir(at(folder)))
                if name.endswith(".rules") and name <= max(ours)
            ]
            earlier += [f"{folder}/{name}" for name in names if folder != RULES[-1] or name not in ours]
        except FileNotFoundError:
            continue
        except OSError as error:
            hidden.append(f"{folder} ({error.strerror})")
    gone = [
        name
        for name in ours
        if "return polkit.Result.AUTH_ADMIN;" not in (read_text(f"{RULES[-1]}/{name}") or "")
    ]
    if hidden and not earlier and not gone:
        raise Unseen(f"cannot be looked into: {', '.join(hidden)}")
    wrong = [
        *(f"{path} is asked before them" for path in earlier),
        *(f"{name} asks for no password" for name in gone),
    ]
    return judge(not wrong, "; ".join(wrong) or f"{' and '.join(ours)} are asked first")


def statement_remembered() -> Observation:
    """The newest statement ever seen is no older than the image's floor, so an older one is refused."""
    try:
        floor = json.loads(read_text(FLOOR) or "null")["sequence"]
        seen = json.loads(read_text(state.STATE) or "{}").get("channel", {}).get("sequence", floor)
    except (ValueError, TypeError, LookupError, AttributeError):
        return judge(False, f"{FLOOR} or {state.STATE} cannot be understood")
    good = isinstance(seen, int) and isinstance(floor, int) and seen >= floor >= 0
    return judge(
        good, f"statements below {max(seen, floor) if good else f'{seen!r} (floor {floor!r})'} are refused"
    )
