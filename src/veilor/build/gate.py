"""The gate: would a machine that trusts exactly the shipped policy take this image?

It is asked of skopeo under that very policy, since other programs see signatures that machines do not:
policy, lookaside configuration and keys are those of the staged tree, and only the folder of the keys is
another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from veilor.build.errors import BuildError
from veilor.build.readiness import refuse_placeholders
from veilor.build.sign import BY_DIGEST, registry_setting
from veilor.build.stage import stage
from veilor.core.product import KEYS_DIR, load

PULL = 3600.0
T = TypeVar("T")


def machine_flags(source_root: Path, folder: Path, keys_dir: Path | None = None) -> list[str]:
    """Stage the tree into the FOLDER and return the flags by which skopeo trusts as a machine with that tree
    does.
    """
    tree = stage(source_root, folder / "tree", keys_dir)
    policy = folder / "policy.json"
    policy.write_text(
        (tree / "etc/containers/policy.json").read_text().replace(f'"{KEYS_DIR}/', f'"{tree}{KEYS_DIR}/')
    )
    return [f"--policy={policy}", f"--registries.d={tree}/etc/containers/registries.d"]


def copy_as_machine(
    source_root: Path,
    copied: list[str],
    folder: Path,
    *,
    run: Callable,
    keys_dir: Path | None,
    ca: Path | None,
    registries_conf: Path | None,
    timeout: float,
):
    """Let skopeo copy as a machine with the staged tree would, all of it below FOLDER; what RUN answers,
    whatever the exit code.

    COPIED is the end of its command line: options, source and destination.
    """
    env, binds = registry_setting(ca)
    flags = machine_flags(source_root, folder, keys_dir)
    if registries_conf is not None:
        flags.append(f"--registries-conf={registries_conf.absolute()}")
        binds = [*binds, registries_conf.absolute().parent]
    return run(
        ["skopeo", *flags, "copy", "--quiet", *copied],
        binds=[folder, *binds],
        env=env,
        timeout=timeout,
        check=False,
    )


def pass_gate(
    source_root: Path,
    ref: str,
    *,
    run: Callable,
    keys_dir: Path | None = None,
    ca: Path | None = None,
    registries_conf: Path | None = None,
    work: Path | None = None,
    then: Callable[[Path], T] = lambda image: None,
) -> T:
    """Pull REF (the product's repository@sha256:…) as a machine would. It lies below WORK meanwhile, whole;
    THEN is called with its folder once it has passed, and its answer returned.

    KEYS_DIR replaces the committed public keys, REGISTRIES_CONF can lead the registry's name elsewhere
    (rehearsals do). Raises BuildError when a machine would refuse it, when REF names no digest or another
    repository, and while the keys are placeholders: then nothing is fetched.
    """
    product = load(source_root / "product.toml")
    refuse_placeholders(source_root, keys_dir)
    if not BY_DIGEST.fullmatch(ref):
        raise BuildError(
            f"{ref} names no digest; a tag may move between the gate and the machines, so only "
            "REPOSITORY@sha256:… is tried"
        )
    if ref.split("@")[0] != product.image_repo:
        raise BuildError(
            f"{ref} is not in {product.image_repo}, and machines follow no other repository; nothing was "
            "fetched"
        )
    with tempfile.TemporaryDirectory(prefix="veilor-gate-", dir=work) as scratch:
        folder = Path(scratch).absolute()
        done = copy_as_machine(
            source_root,
            ["--preserve-digests", f"docker://{ref}", f"dir:{folder / 'image'}"],
            folder,
            run=run,
            keys_dir=keys_dir,
            ca=ca,
            registries_conf=registries_conf,
            timeout=PULL,
        )
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-400:]
            raise BuildError(f"{ref} would be refused by every machine, so the tag must not move: {said}")
        return then(folder / "image")
