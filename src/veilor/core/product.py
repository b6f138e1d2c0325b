"""The product's facts, read from product.toml: on the machine /usr/lib/veilor/product.toml."""

import os
import re
import tomllib
from dataclasses import dataclass
from typing import Any

from veilor.core import image

KEYS_DIR = "/usr/share/pki/containers"
_KEY_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\.pub")
_PLAIN = re.compile(r'[^"\\$`\x00-\x1f]+')  # what os-release can hold between quotes as it is


@dataclass(frozen=True)
class Product:
    """Names, image references, keys (file names in KEYS_DIR) and addresses of the product."""

    id: str
    name: str
    version: str
    pretty_name: str
    stateroot: str
    registry: str
    repository: str
    channel: str
    tag: str
    base_image: str
    base_tag: str
    urls: dict[str, str]
    image_keys: tuple[str, ...]
    channel_keys: tuple[str, ...]
    epoch: int

    @property
    def image_repo(self) -> str:
        """The images' repository, with its registry: ghcr.io/veilor/veilor-os."""
        return f"{self.registry}/{self.repository}"

    @property
    def channel_repo(self) -> str:
        """The channel statements' repository, with its registry."""
        return f"{self.registry}/{self.channel}"

    @property
    def image_ref(self) -> str:
        """The reference that machines follow: repository and tag."""
        return f"{self.image_repo}:{self.tag}"

    @property
    def channel_ref(self) -> str:
        """Where the newest channel statement is fetched from."""
        return f"{self.channel_repo}:{self.tag}"

    @property
    def base_ref(self) -> str:
        return f"{self.base_image}:{self.base_tag}"

    def fill_in(self, command: str) -> str:
        """COMMAND with {base} and {fedora} replaced by the base's reference and the Fedora number."""
        return command.replace("{base}", self.base_ref).replace("{fedora}", self.version)


def parse(text: str) -> Product:
    """The product that the TOML in TEXT describes.

    Raises ValueError that names the field that is missing or wrong.
    """
    data = tomllib.loads(text)

    def section(name: str) -> dict[str, Any]:
        found = data.get(name)
        if not isinstance(found, dict):
            raise ValueError(f"[{name}] is missing")
        return found

    def field(table: str, name: str) -> str:
        value = section(table).get(name)
        if not isinstance(value, str) or not _PLAIN.fullmatch(value):
            raise ValueError(f"[{table}] {name} is missing or not plain text")
        return value

    def keys(name: str) -> tuple[str, ...]:
        value = section("keys").get(name)
        wrong = ValueError(f"[keys] {name} must be a list of file names that end in .pub")
        if not isinstance(value, list) or not value:
            raise wrong
        for key in value:
            if not isinstance(key, str) or not _KEY_NAME.fullmatch(key):  # no path out of KEYS_DIR
                raise wrong
        return tuple(value)

    epoch = section("keys").get("epoch", 0)
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise ValueError("[keys] epoch must be a number from 0 on")
    product = Product(
        **{name: field("product", name) for name in ("id", "name", "version", "pretty_name", "stateroot")},
        **{name: field("image", name) for name in ("registry", "repository", "channel", "tag")},
        base_image=field("base", "image"),
        base_tag=field("base", "tag"),
        urls={name: field("urls", name) for name in ("home", "support", "bugs", "docs")},
        image_keys=keys("image"),
        channel_keys=keys("channel"),
        epoch=epoch,
    )
    for reference in (product.image_ref, product.channel_ref):
        if not image.is_reference(reference):
            raise ValueError(
                f"{reference[:100]!r} is not an image reference with registry, repository and tag"
            )
    return product


def load(path: str | os.PathLike[str]) -> Product:
    """The product that the file at PATH describes. Raises OSError, or ValueError for wrong content."""
    with open(path, encoding="utf-8") as file:
        return parse(file.read())


def os_release(product: Product) -> str:
    """os-release(5). ID_LIKE and PLATFORM_ID tell programs that know Fedora that this is one."""
    fields = {
        "NAME": product.name,
        "VERSION": product.version,
        "ID": product.id,
        "ID_LIKE": "fedora",
        "VERSION_ID": product.version,
        "PLATFORM_ID": f"platform:f{product.version}",
        "PRETTY_NAME": product.pretty_name,
        "IMAGE_ID": product.name,
        "LOGO": product.name,
        "DEFAULT_HOSTNAME": product.id,
        "HOME_URL": product.urls["home"],
        "DOCUMENTATION_URL": product.urls["docs"],
        "SUPPORT_URL": product.urls["support"],
        "BUG_REPORT_URL": product.urls["bugs"],
    }
    return "".join(f'{key}="{value}"\n' for key, value in fields.items())
