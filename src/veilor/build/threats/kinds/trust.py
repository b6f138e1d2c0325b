"""Image checks of what the machine trusts: the container policy, the keys, the floor of the channel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from veilor.build.threats.kinds.subject import Mutation, Subject
from veilor.core import policy
from veilor.core.product import KEYS_DIR, Product


def policy_intact(subject: Subject) -> str | None:
    found = policy.problems(subject.text("etc/containers/policy.json"), subject.product)
    if not found and "use-sigstore-attachments: true" not in subject.text(
        "etc/containers/registries.d/veilor.yaml"
    ):
        return "registries.d does not say where the signatures lie"
    return "; ".join(found) or None


def policy_mutations() -> list[Mutation]:
    path = "etc/containers/policy.json"

    def edit(change: Callable[[dict, Product], None]) -> Callable[[Subject], None]:
        def write(subject: Subject) -> None:
            data = json.loads(subject.text(path))
            change(data, subject.product)
            subject.write(path, json.dumps(data))

        return write

    def scope(data: dict, product: Product) -> dict:
        return data["transports"]["docker"][product.image_repo][0]

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
        ("there is no policy", lambda s: s.remove(path)),
        ("nothing says where signatures lie", lambda s: s.remove("etc/containers/registries.d/veilor.yaml")),
    ]


def key_paths(subject: Subject) -> list[str]:
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
    if bad or len(set(texts.values())) < len(texts):
        return f"{bad[0]} is no public key" if bad else "a key stands twice"
    shipped = subject.text(policy.SUMS.lstrip("/")).splitlines()
    other = [
        path
        for path in texts
        if f"{hashlib.sha256(subject.at(path).read_bytes()).hexdigest()}  /{path}" not in shipped
    ]
    return f"{policy.SUMS} has no such hash for {other[0]}" if other else None


def keys_mutations() -> list[Mutation]:
    return [
        ("a key is missing", lambda s: s.remove(key_paths(s)[1])),
        ("the channel's key is the image's", lambda s: s.write(key_paths(s)[-1], s.text(key_paths(s)[0]))),
        ("a key is another", lambda s: s.write(key_paths(s)[0], s.text(key_paths(s)[0]) + "\n")),
        ("there are no hashes", lambda s: s.remove(policy.SUMS.lstrip("/"))),
    ]


def floor(subject: Subject) -> str | None:
    """The image says below which statement nothing is taken."""
    try:
        number = json.loads(subject.text("usr/lib/veilor/channel-floor.json"))["sequence"]
    except (ValueError, LookupError, TypeError):
        return "there is no channel-floor.json that can be read"
    return None if isinstance(number, int) and number >= 0 else f"the floor is {number!r}"


def floor_mutations() -> list[Mutation]:
    path = "usr/lib/veilor/channel-floor.json"
    return [
        ("there is none", lambda s: s.remove(path)),
        ("it is below all", lambda s: s.write(path, '{"sequence": -1}')),
    ]
