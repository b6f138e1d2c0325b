"""The channel statement issued anew: the same digest, a higher sequence, another two weeks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from veilor.build.channel import make_statement
from veilor.build.errors import BuildError
from veilor.build.gate import copy_as_machine
from veilor.build.sign import TIMEOUT
from veilor.core import statement as core
from veilor.core.product import Product, load


def fetch_statement(
    source_root: Path,
    *,
    run: Callable,
    keys_dir: Path | None = None,
    ca: Path | None = None,
    registries_conf: Path | None = None,
    work: Path | None = None,
) -> core.Statement:
    """The statement that machines see now, fetched under the shipped policy.

    Raises BuildError when there is none, or machines would not take it: then a person has to say what is
    announced.
    """
    product = load(source_root / "product.toml")
    with tempfile.TemporaryDirectory(prefix="veilor-renew-", dir=work) as scratch:
        folder = Path(scratch).absolute()
        done = copy_as_machine(
            source_root,
            [f"docker://{product.channel_ref}", f"dir:{folder / 'out'}"],
            folder,
            run=run,
            keys_dir=keys_dir,
            ca=ca,
            registries_conf=registries_conf,
            timeout=TIMEOUT,
        )
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-300:]
            raise BuildError(
                f"{product.channel_ref} cannot be fetched as a machine would, so nothing was done; announce "
                f"by hand, or give --sequence-floor a number: {said}"
            )
        return read_statement(folder / "out", product)


def read_statement(artefact: Path, product: Product) -> core.Statement:
    """The statement in the folder ARTEFACT, as skopeo's dir: writes it.

    Raises BuildError when machines with PRODUCT would not take it.
    """
    try:
        (layer,) = json.loads((artefact / "manifest.json").read_text())["layers"]
        statement = core.parse((artefact / layer["digest"].removeprefix("sha256:")).read_bytes())
        core.check_target(statement, product.image_repo, product.tag)
    except (OSError, ValueError, KeyError) as error:
        raise BuildError(
            f"the present statement is none that machines take ({error}); announce by hand"
        ) from None
    return statement


def floor_of(product: Product, present: core.Statement) -> int:
    """The sequence below which an image of PRODUCT that is built now accepts no statement.

    PRESENT is what the channel says. Raises BuildError when that is of an epoch after PRODUCT's: it may be a
    thief's, who would so shut the owner out of every new image.
    """
    if present.epoch > product.epoch:
        raise BuildError(
            f"the channel is in epoch {present.epoch}, and product.toml is of epoch {product.epoch}; if a "
            "channel key was stolen, put the new one into its slot and raise [keys] epoch with it "
            "(docs/RELEASING.md)"
        )
    return present.sequence if present.epoch == product.epoch else 0


def renew(product: Product, present: core.Statement, issued: int, days: int) -> dict:
    """The statement PRESENT again, one sequence higher, issued at ISSUED and valid for DAYS.

    ISSUED is in seconds since 1970. Its rollout goes on as it began, and what was withdrawn stays withdrawn.
    """
    start = int(present.rollout_start.timestamp())
    return make_statement(
        product,
        digest=present.digest,
        version=present.version,
        sequence=present.sequence + 1,
        issued=issued,
        expires=issued + days * 86400,
        rollout_start=start,
        rollout_hours=present.rollout_hours,
        withdrawn=list(present.withdrawn),
        epoch=present.epoch,
    )
