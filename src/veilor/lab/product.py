"""What the lab knows of the product: its names, repositories and keys, as product.toml says them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from veilor.core.product import load


@dataclass(frozen=True)
class ProductFacts:
    """What of product.toml the lab needs.

    REGISTRY is the registry's host. The two repositories are paths within it, which is how the lab serves
    them; IMAGE_REPO is the image's with the host.
    """

    name: str
    tag: str
    registry: str
    image_repo: str
    image_repository: str
    channel_repository: str
    image_keys: list[str]
    channel_keys: list[str]


def read_product_facts(source: Path) -> ProductFacts:
    """The facts in the product.toml of the repository SOURCE."""
    product = load(source / "product.toml")
    registry, _, image = product.image_repo.partition("/")
    return ProductFacts(
        name=product.name,
        tag=product.tag,
        registry=registry,
        image_repo=product.image_repo,
        image_repository=image,
        channel_repository=product.channel_repo.partition("/")[2],
        image_keys=list(product.image_keys),
        channel_keys=list(product.channel_keys),
    )
