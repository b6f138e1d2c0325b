"""Writes names and addresses, from the staged product.toml: os-release, GRUB's distributor, the About page.

The staged tree brought our os-release. What only the base's had (VARIANT_ID, OSTREE_VERSION, support dates:
its own tools read them) is added behind it. Exit codes: 0 written, 1 not.
"""

import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

# What the base says of its own project; a person with a question about veilor-os must not be sent there.
THEIRS = {
    "VENDOR_NAME",
    "VENDOR_URL",
    "REDHAT_BUGZILLA_PRODUCT",
    "REDHAT_BUGZILLA_PRODUCT_VERSION",
    "REDHAT_SUPPORT_PRODUCT",
    "REDHAT_SUPPORT_PRODUCT_VERSION",
    "CPE_NAME",
    "ANSI_COLOR",
    "IMAGE_VERSION",
    "BOOTLOADER_NAME",
    "VERSION_CODENAME",
}


def fields(text: str) -> dict[str, str]:
    """The fields of os-release(5) in TEXT: shell assignments, without their quotes."""
    pairs = (line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z][A-Z0-9_]*=", line))
    return {key: "".join(shlex.split(value)) for key, value in pairs}


def merge(ours: dict[str, str], text: str) -> str:
    """The text of os-release: OURS first, then those lines of the base's TEXT that OURS and THEIRS lack.

    The base's lines stay as they are, quotes and all: a unit of its own compares VARIANT_ID by grep. Raises
    ValueError when the two are for different versions of Fedora.
    """
    base = fields(text)
    if base.get("VERSION_ID", ours["VERSION_ID"]).split(".")[0] != ours["VERSION_ID"]:
        raise ValueError(
            f"the base is Fedora {base['VERSION_ID']}, product.toml says {ours['VERSION_ID']}; change one "
            "of them"
        )
    rest = [
        line
        for line in text.splitlines()
        if (key := line.partition("=")[0]) in base and key not in {*ours, *THEIRS}
    ]
    return "".join(f"{line}\n" for line in [*(f'{key}="{value}"' for key, value in ours.items()), *rest])


def write(path: Path, text: str) -> None:
    """Write TEXT to PATH, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)
    print(f"brand: wrote {path}")


def main() -> int:
    """Write all three files of the tree at $VEILOR_ROOT; the exit code."""
    root = Path(os.environ.get("VEILOR_ROOT") or "/")
    try:
        product = tomllib.loads((root / "usr/lib/veilor/product.toml").read_text())
        os_release = root / "usr/lib/os-release"
        merged = merge(fields(os_release.read_text()), (root / "usr/lib/veilor/base/os-release").read_text())
        name, urls = product["product"]["name"], product["urls"]
    except (OSError, ValueError, KeyError) as error:
        print(f"brand: {error}; the image keeps the names it had", file=sys.stderr)
        return 1
    write(os_release, merged)
    # Read by grub2-mkconfig alone; the menu of an atomic Fedora is static and shows PRETTY_NAME.
    grub = root / "etc/default/grub"
    lines = grub.read_text().splitlines() if grub.exists() else []
    kept = [line for line in lines if not line.startswith("GRUB_DISTRIBUTOR=")]
    write(grub, "\n".join([f'GRUB_DISTRIBUTOR="{name}"', *kept]) + "\n")
    write(root / "etc/xdg/kcm-about-distrorc", f"[General]\nName={name}\nWebsite={urls['home']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
