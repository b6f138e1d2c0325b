"""The gate: would a machine that trusts exactly the shipped policy take this image?

skopeo answers it under that very policy, since other programs see signatures that machines do not. Policy,
lookaside configuration and keys are those of the staged tree; only the folder of the keys is another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from veilor.build.errors import BuildError
from veilor.build.readiness import refuse_placeholders
from veilor.build.sign import BY_DIGEST, registry_setting
from veilor.build.stage import stage
from veilor.core.product import KEYS_DIR, load

PULL = 3600.0  # seconds for an image of some GiB
T = TypeVar("T")


def machine_flags(source_root: Path, folder: Path, keys_dir: Path | None = None) -> list[str]:
    """The flags by which skopeo trusts what a machine trusts, with the tree staged into FOLDER."""
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
) -> Any:
    """Let skopeo copy as a machine with the staged tree would, all of it below FOLDER.

    COPIED is the end of its command line: options, source and destination. Returns what RUN returns, whatever
    the exit code.
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
    then: Callable[[Path], T] | None = None,
) -> T | None:
    """Pull REF as a machine would; raise BuildError when a machine would refuse it.

    REF is the product's repository@sha256:…. The image lies below WORK meanwhile. THEN, if there is one, is
    called with its folder once it has passed, and its answer is returned. KEYS_DIR replaces the committed
    public keys; REGISTRIES_CONF can lead the registry's name elsewhere, as rehearsals do. Nothing is
    fetched while the keys are placeholders, and when REF names no digest or another repository: these are
    BuildErrors too.
    """
    refuse_placeholders(source_root, keys_dir)
    refuse_other_references(ref, load(source_root / "product.toml").image_repo)
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
        if then is None:
            return None
        return then(folder / "image")


def refuse_other_references(ref: str, repository: str) -> None:
    """Raise BuildError unless REF is an image of REPOSITORY, by digest."""
    if not BY_DIGEST.fullmatch(ref):
        raise BuildError(
            f"{ref} names no digest; a tag may move between the gate and the machines, so only "
            "REPOSITORY@sha256:… is tried"
        )
    if ref.split("@")[0] != repository:
        raise BuildError(
            f"{ref} is not in {repository}, and machines follow no other repository; nothing was fetched"
        )
