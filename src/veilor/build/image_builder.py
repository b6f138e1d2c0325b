"""installer-iso.toml: the installation for osbuild's image-builder, generated from kickstart/install.ks.

image-builder puts the image beside the installer and writes its own `ostreecontainer` line for it, at the
same place; a second one is an error. Everything else of the kickstart goes in as it is. So the installation
differs in what that line and what image-builder adds to it decide: docs/decisions/0041-image-builder.md.
"""

from __future__ import annotations

import re
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.kickstart import flatten_kickstart

FILE = "installer-iso.toml"
HEAD = """# The bootstrap ISO by image-builder, as an alternative to `veilor iso`:
#   image-builder build --bootc-ref INSTALLER --bootc-installer-payload-ref ghcr.io/… bootc-installer \\
#     --blueprint installer-iso.toml
# INSTALLER is a container with Anaconda in it; the image that is installed comes second.
# Not the same installation in all: image-builder deploys by a line of its own. The stateroot is then named default, not
# veilor, and a script of its own has the new system follow the registry at once, unverified as before; the first boot
# verifies and puts that right as it does after `veilor iso`. See docs/decisions/0041-image-builder.md.
# Generated from kickstart/install.ks by `make docs`; don't edit. `veilor check` compares them.

[customizations.installer.kickstart]
contents = '''
"""  # noqa: E501


def kickstart_body(root: Path) -> str:
    """The flattened, checked install.ks of the clone at ROOT, without the line that image-builder writes.

    Raises BuildError when the kickstart is not fit, or can't stand in a TOML literal.
    """
    text = flatten_kickstart(root / "kickstart/install.ks")
    body, taken = re.subn(r"^ostreecontainer .*\n", "", text, flags=re.M)
    if taken != 1:
        raise BuildError(
            f"kickstart/install.ks has {taken} ostreecontainer lines, and image-builder replaces exactly one"
        )
    if "'''" in body:
        raise BuildError(
            f"kickstart/install.ks has ''' in it, which would end the text in {FILE}; write \"\"\" instead"
        )
    return body


def render(root: Path) -> str:
    """The text of installer-iso.toml. Raises BuildError as `kickstart_body`."""
    return f"{HEAD}{kickstart_body(root)}'''\n"


def write(root: Path) -> None:
    """Write installer-iso.toml anew."""
    new = root / (FILE + ".new")
    new.write_text(render(root), encoding="utf-8")
    new.rename(root / FILE)
