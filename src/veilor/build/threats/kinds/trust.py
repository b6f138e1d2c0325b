"""Image checks of what the machine trusts: the container policy, the keys, the floor of the channel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from veilor.build.threats.kinds.subject import Mutation, Subject
from veilor.core import policy
from veilor.core.product import KEYS_DIR, Product

POLICY, REGISTRIES = "etc/containers/policy.json", "etc/containers/registries.d/veilor.yaml"
FLOOR = "usr/lib/veilor/channel-floor.json"


def policy_intact(subject: Subject) -> str | None:
    """The container policy takes nothing but what our keys have signed, and the signatures are looked up."""
    found = policy.problems(subject.text(POLICY), subject.product)
    if found:
        return "; ".join(found)
    if "use-sigstore-attachments: true" not in subject.text(REGISTRIES):
        return "registries.d does not say where the signatures lie"
    return None


def policy_mutations() -> list[Mutation]:
    """The policy in its weaker forms, and the files gone."""

    def edit(change: Callable[[dict[str, Any], Product], object]) -> Callable[[Subject], None]:
        def write(subject: Subject) -> None:
            data = json.loads(subject.text(POLICY))
            change(data, subject.product)
            subject.write(POLICY, json.dumps(data))

        return write

    def scope(data: dict[str, Any], product: Product) -> dict[str, Any]:
        requirement: dict[str, Any] = data["transports"]["docker"][product.image_repo][0]
        return requirement

    anything = [{"type": "insecureAcceptAnything"}]
    return [
        ("anything is taken by default", edit(lambda data, product: data.update(default=anything))),
        (
            "our image needs no signature",
            edit(lambda data, product: data["transports"]["docker"].update({product.image_repo: anything})),
        ),
        (
            "our scope is gone",
            edit(lambda data, product: data["transports"]["docker"].pop(product.image_repo)),
        ),
        (
            "a signature for another name will do",
            edit(lambda data, product: scope(data, product).pop("signedIdentity")),
        ),
        (
            "a rule of its own for the tag",
            edit(lambda data, product: data["transports"]["docker"].update({product.image_ref: anything})),
        ),
        ("there is no policy", lambda s: s.remove(POLICY)),
        ("nothing says where signatures lie", lambda s: s.remove(REGISTRIES)),
    ]


def key_paths(subject: Subject) -> list[str]:
    """Where the product's public keys lie in the tree."""
    return [
        f"{KEYS_DIR}/{name}".lstrip("/")
        for name in (*subject.product.image_keys, *subject.product.channel_keys)
    ]


def keys(subject: Subject) -> str | None:
    """The product's public keys are there, each another, and each with the hash that the image carries for
    it.
    """
    texts = {path: subject.text(path) for path in key_paths(subject)}
    bad = [path for path, text in texts.items() if "BEGIN PUBLIC KEY" not in text]
    if bad:
        return f"{bad[0]} is no public key"
    if len(set(texts.values())) < len(texts):
        return "a key stands twice"
    shipped = subject.text(policy.SUMS.lstrip("/")).splitlines()
    for path in texts:
        total = hashlib.sha256(subject.at(path).read_bytes()).hexdigest()
        if f"{total}  /{path}" not in shipped:
            return f"{policy.SUMS} has no such hash for {path}"
    return None


def keys_mutations() -> list[Mutation]:
    """Keys that are missing, the same, or others, and no hashes of them."""
    return [
        ("a key is missing", lambda s: s.remove(key_paths(s)[1])),
        ("the channel's key is the image's", lambda s: s.write(key_paths(s)[-1], s.text(key_paths(s)[0]))),
        ("a key is another", lambda s: s.write(key_paths(s)[0], s.text(key_paths(s)[0]) + "\n")),
        ("there are no hashes", lambda s: s.remove(policy.SUMS.lstrip("/"))),
    ]


def floor(subject: Subject) -> str | None:
    """The image says below which statement nothing is taken."""
    try:
        number = json.loads(subject.text(FLOOR))["sequence"]
    except (ValueError, LookupError, TypeError):
        return "there is no channel-floor.json that can be read"
    if isinstance(number, int) and number >= 0:
        return None
    return f"the floor is {number!r}"


def floor_mutations() -> list[Mutation]:
    """There is no floor, and one below all statements."""
    return [
        ("there is none", lambda s: s.remove(FLOOR)),
        ("it is below all", lambda s: s.write(FLOOR, '{"sequence": -1}')),
    ]
