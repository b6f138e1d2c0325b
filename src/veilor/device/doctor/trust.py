"""Looks at what is trusted: the booted image, the container policy, the keys, the memory of statements."""

import json

from veilor.core import policy
from veilor.core.product import Product
from veilor.device import bootc
from veilor.device.doctor.look import Finding, Unseen, judge, read
from veilor.device.run import DeviceError

STATE = "/var/lib/veilor/state.json"
FLOOR = "/usr/lib/veilor/channel-floor.json"


def image_verified(product: Product) -> Finding:
    """What runs is the product's image from its registry, fetched under the container policy: asked of bootc."""
    try:
        booted = bootc.status().booted
    except DeviceError as error:
        raise Unseen(error.outcome.what[:1].lower() + error.outcome.what[1:]) from None
    if booted is None:
        return judge(False, "this system is not one that is replaced as a whole")
    good = booted.follows(product.image_ref)
    return judge(good, f"runs {booted.reference} from {booted.transport}, verified by {booted.signature or 'nothing'}")


def policy_intact(product: Product) -> Finding:
    """The machine's container policy refuses by default and asks for our signatures."""
    text = read("/etc/containers/policy.json")
    found = ["there is no container policy"] if text is None else policy.problems(text, product)
    return judge(not found, "; ".join(found) or "nothing is taken but what our keys signed")


def keys_as_shipped(product: Product) -> Finding:
    """The policy's keys are all there, each another, in the read-only system and not beside it."""
    texts = {path: read(path) for paths in policy.scopes(product).values() for path in paths}
    missing = [path for path, text in texts.items() if not text]
    twice = len(set(texts.values())) < len(texts)
    return judge(not missing and not twice, f"missing: {', '.join(missing)}" if missing else
                 "one key stands twice" if twice else f"{len(texts)} keys, each another")


def statement_remembered() -> Finding:
    """The newest statement ever seen is no older than the image's floor, so an older one is refused."""
    try:
        floor = json.loads(read(FLOOR) or "null")["sequence"]
        seen = json.loads(read(STATE) or "{}").get("channel", {}).get("sequence", floor)
    except (ValueError, TypeError, LookupError, AttributeError):
        return judge(False, f"{FLOOR} or {STATE} cannot be understood")
    good = isinstance(seen, int) and isinstance(floor, int) and seen >= floor >= 0
    return judge(good, f"statements below {max(seen, floor) if good else f'{seen!r} (floor {floor!r})'} are refused")
