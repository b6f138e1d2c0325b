"""installer-iso.toml: the same installation for osbuild's image-builder, generated from kickstart/install.ks.

image-builder puts the image beside the installer and writes its own `ostreecontainer` line for it, at the same place; a
second one is an error. Everything else of the kickstart goes in as it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.kickstart import flatten_kickstart

FILE = "installer-iso.toml"
HEAD = """# The bootstrap ISO by image-builder, as an alternative to `veilor iso`:
#   image-builder build --bootc-ref ghcr.io/… bootc-installer --blueprint installer-iso.toml
# Generated from kickstart/install.ks by `make docs`; don't edit. `veilor check` compares them.

[customizations.installer.kickstart]
contents = '''
"""


def kickstart_body(root: Path) -> str:
    """The flattened, checked install.ks of the repository at ROOT without the line that image-builder writes itself.

    Raises BuildError when the kickstart is not fit, or can't stand in a TOML literal.
    """
    text = flatten_kickstart(root / "kickstart/install.ks")
    body, taken = re.subn(r"^ostreecontainer .*\n", "", text, flags=re.M)
    if taken != 1:
        raise BuildError(f"kickstart/install.ks has {taken} ostreecontainer lines, and image-builder replaces exactly one")
    if "'''" in body:
        raise BuildError(f"kickstart/install.ks has ''' in it, which would end the text in {FILE}; write \"\"\" instead")
    return body


def render(root: Path) -> str:
    """The text of installer-iso.toml. Raises BuildError as `kickstart_body`."""
    return f"{HEAD}{kickstart_body(root)}'''\n"


def write(root: Path) -> None:
    """Write installer-iso.toml anew."""
    new = root / (FILE + ".new")
    new.write_text(render(root), encoding="utf-8")
    new.rename(root / FILE)
