"""The container policy: what it must say, and whether a given one still says it."""

import json
from typing import Any

from veilor.core.product import KEYS_DIR, Product

# checksums of the keys that the image was made with, as sha256sum writes and reads them
SUMS = "/usr/lib/veilor/keys.sha256"


def scopes(product: Product) -> dict[str, list[str]]:
    """The repositories that are trusted, each with the paths of its keys."""
    return {
        product.image_repo: [f"{KEYS_DIR}/{name}" for name in product.image_keys],
        product.channel_repo: [f"{KEYS_DIR}/{name}" for name in product.channel_keys],
    }


def requirement(keys: list[str]) -> list[dict[str, Any]]:
    """What an image of one of our repositories must have: a signature by one of KEYS for this repository."""
    return [{"type": "sigstoreSigned", "keyPaths": keys, "signedIdentity": {"type": "matchRepository"}}]


def render(product: Product) -> str:
    """policy.json(5): nothing is taken except our two repositories, each by its own keys."""
    trusted = {scope: requirement(keys) for scope, keys in scopes(product).items()}
    return json.dumps({"default": [{"type": "reject"}], "transports": {"docker": trusted}}, indent=2) + "\n"


def render_registries(product: Product) -> str:
    """registries.d(5): the signatures lie beside the images. Without it the images look unsigned."""
    return "docker:\n" + "".join(
        f"  {repo}:\n    use-sigstore-attachments: true\n" for repo in scopes(product)
    )


def problems(text: str, product: Product) -> list[str]:
    """What is wrong with the policy in TEXT: no sentence when it is intact.

    Other repositories may be added by the machine's owner. What may not be: another default, a weaker rule
    for ours, or a scope within ours (`repo:tag`), which would win over the rule for the repository.
    """
    unreadable = ["the container policy does not name our repositories, or cannot be read"]
    try:
        policy = json.loads(text)
        default, docker = policy["default"], policy["transports"]["docker"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return unreadable
    if not isinstance(docker, dict):
        return unreadable
    found = []
    if default != [{"type": "reject"}]:
        found.append("the container policy no longer rejects by default")
    for scope, keys in scopes(product).items():
        if docker.get(scope) != requirement(keys):
            found.append(f"the container policy no longer asks for our signature on {scope}")
        for other in docker:
            if other.startswith((f"{scope}:", f"{scope}@")):
                found.append(f"the container policy has a rule of its own for {other}")
    return found
