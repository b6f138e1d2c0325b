"""The staged tree: every file of ours as it lies on the machine. BlueBuild and the lab stamp it on the base.

Same source, keys and SOURCE_DATE_EPOCH give the same tree to the byte, mode and time, in any folder and
under any umask. So modes are the two that git keeps (0644 and 0755); a program that needs a stricter one
says so in tmpfiles.d.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from veilor.build import manual
from veilor.build.errors import BuildError
from veilor.build.look import write_look
from veilor.build.threats.model import load_model, render_claims
from veilor.core import claims, policy
from veilor.core.product import KEYS_DIR, Product, load, os_release

EPOCH = 1767225600  # 2026-01-01T00:00:00Z, unless SOURCE_DATE_EPOCH says otherwise
KEYS = KEYS_DIR.lstrip("/")
APP = "usr/lib/veilor/app/veilor"
PRODUCT = "usr/lib/veilor/product.toml"
FLOOR = "usr/lib/veilor/channel-floor.json"
TREE = "usr/lib/veilor/tree-digest"
SUMS = policy.SUMS.lstrip("/")
GENERATED = (
    TREE,
    SUMS,
    "etc/containers/policy.json",
    "etc/containers/registries.d/veilor.yaml",
    "usr/lib/os-release",
    FLOOR,
    claims.PATH.lstrip("/"),
)
LEFT_OUT = {"__pycache__", ".gitkeep"}


def stage(source_root: Path, dest: Path, keys_dir: Path | None = None, floor: int = 0) -> Path:
    """Write the staged tree to DEST, in place of an older one there, and return its path.

    KEYS_DIR holds the four public keys under the product's names (default: the committed ones). FLOOR is the
    lowest statement sequence a new machine accepts. Raises BuildError, and leaves DEST as it was, when DEST
    holds anything but a staged tree, when a key is missing or unfit, or when the overlay has a file that is
    generated.
    """
    source_root, dest = source_root.absolute(), dest.absolute()
    check_dest(dest, source_root)
    if floor < 0:
        raise BuildError(f"the sequence floor is {floor}; statements count up from 0")
    try:
        product = load(source_root / "product.toml")
    except (OSError, ValueError) as error:
        raise BuildError(f"product.toml cannot be used ({error}); nothing was staged") from None
    dest.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", suffix=".tmp", dir=dest.parent))
    try:
        tree = scratch / "new"
        tree.mkdir()
        fill(tree, source_root, keys_dir or source_root / "bluebuild/keys", product, floor)
        settle(tree)
        old = scratch / "old"
        if dest.exists():
            dest.rename(old)
        try:
            tree.rename(dest)
        except OSError:
            if old.exists():
                old.rename(dest)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return dest


def check_dest(dest: Path, source_root: Path) -> None:
    """Raise BuildError unless DEST is absent, empty or a staged tree, and outside of the sources."""
    if any(dest.is_relative_to(source_root / part) for part in ("overlay", "src")):
        raise BuildError(
            f"{dest} lies inside the sources, and staging there would stage itself; name another folder"
        )
    if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
        raise BuildError(f"{dest} is not a folder, so nothing was staged; name another, or remove it")
    if not dest.exists():
        return
    if any(dest.iterdir()) and not is_staged_tree(dest):
        raise BuildError(
            f"{dest} holds something that is not a staged tree; name an empty or new folder, nothing was "
            "changed"
        )


def is_staged_tree(folder: Path) -> bool:
    """Whether FOLDER is a tree that was staged before, and not the root of a machine with our files."""
    if {path.name for path in folder.iterdir()} != {"etc", "usr"}:
        return False
    if os.path.ismount(folder):
        return False
    return (folder / PRODUCT).is_file() and (folder / FLOOR).is_file()


def fill(tree: Path, source_root: Path, keys_dir: Path, product: Product, floor: int) -> None:
    """Copy and generate everything into the empty folder TREE."""
    copy_tree(source_root / "overlay", tree)
    taken = [name for name in GENERATED if (tree / name).exists()]
    if taken:
        raise BuildError(f"overlay/{taken[0]} is generated from product.toml; remove it from the overlay")
    package = source_root / "src/veilor"
    for part in ("core", "device"):
        copy_tree(package / part, tree / APP / part)
    shutil.copyfile(package / "__init__.py", tree / APP / "__init__.py")
    shutil.copyfile(source_root / "product.toml", tree / PRODUCT)
    copy_keys(keys_dir, tree / KEYS, [*product.image_keys, *product.channel_keys])
    for name, text in zip(
        GENERATED[1:],
        (
            sums(tree, product),
            policy.render(product),
            policy.render_registries(product),
            os_release(product),
            render_floor(product.epoch, floor),
            render_claims(load_model(source_root)),
        ),
        strict=True,
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    manual.write(tree, product.version)
    write_look(tree, source_root, product)
    (tree / TREE).write_text(tree_digest(tree) + "\n")


def render_floor(epoch: int, sequence: int) -> str:
    """The oldest statement that a machine accepts: SEQUENCE of EPOCH, left out where it is the first."""
    return json.dumps({"schema": 1, **({"epoch": epoch} if epoch else {}), "sequence": sequence}) + "\n"


def sums(tree: Path, product: Product) -> str:
    """The hashes of TREE's public keys, a line each as sha256sum writes them."""
    paths = [path for some in policy.scopes(product).values() for path in some]
    return "".join(
        f"{hashlib.sha256((tree / path.lstrip('/')).read_bytes()).hexdigest()}  {path}\n" for path in paths
    )


def tree_digest(tree: Path) -> str:
    """The digest of the staged TREE: sha256:… over every path, run bit and content.

    Public keys, their hashes and the sequence floor are left out: a rehearsal has its own of them, and is
    to name the tree that it was made with.
    """
    total = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if name in (TREE, SUMS, FLOOR) or name.startswith(KEYS + "/"):
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        kind = "link" if path.is_symlink() else "program" if path.stat().st_mode & 0o100 else "file"
        total.update(f"{kind} {len(content)} {name}\n".encode() + content)
    return f"sha256:{total.hexdigest()}"


def copy_tree(source: Path, dest: Path) -> None:
    """Copy the folder SOURCE into DEST, symbolic links as they are.

    Raises BuildError on anything else than files, folders and links.
    """
    if not source.is_dir():
        raise BuildError(f"{source} is missing; stage from a whole clone of the repository")
    for path, relative in walk(source):
        target = dest / relative
        if path.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.readlink(path))
        elif path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(path.stat().st_mode)
        else:
            raise BuildError(
                f"{path} is neither file, folder nor link, and an image cannot carry it; remove it"
            )


def walk(source: Path) -> Iterator[tuple[Path, Path]]:
    """Every path below SOURCE with its relative one, in order, without what Python or git leave behind."""
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if not LEFT_OUT & set(relative.parts):
            yield path, relative


def copy_keys(source: Path, dest: Path, names: list[str]) -> None:
    """Copy the public keys NAMES from SOURCE to DEST.

    Raises BuildError on one that is missing, is no public key, or stands twice: a second slot with the same
    key is no spare.
    """
    dest.mkdir(parents=True, exist_ok=True)
    seen: dict[bytes, str] = {}
    for name in names:
        try:
            data = (source / name).read_bytes()
        except OSError:
            raise BuildError(f"{source} has no {name}; it must hold {', '.join(names)}") from None
        try:
            load_pem_public_key(data)
        except ValueError:
            raise BuildError(
                f"{source / name} is not a public key in PEM form; put the .pub half there"
            ) from None
        if data in seen:
            raise BuildError(f"{seen[data]} and {name} are the same key; each slot needs a key of its own")
        seen[data] = name
        (dest / name).write_bytes(data)


def settle(tree: Path) -> None:
    """Give everything in TREE one of two modes and the build's time."""
    try:
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH)
    except ValueError:
        raise BuildError("SOURCE_DATE_EPOCH is not a number of seconds; set it right or unset it") from None
    for path in [*sorted(tree.rglob("*"), reverse=True), tree]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
