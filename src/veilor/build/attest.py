"""What was shown of an image travels with it: signed in-toto statements beside it in the registry.

There are two statements about claims. The subject of one is the image's digest; it has the checks of this
very image. The subject of the other is the staged tree's digest; it has what rehearsals showed of that tree
on stand-ins, which it names. A rehearsal's machine has test keys in its image, so nothing that one showed
is ever said of a released digest.

cosign signs both and keeps them under the tag `sha256-<hex>.att`. What lies there is then signed as an
image is, so that a machine can fetch it under its own policy, which knows nothing of attestations.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from veilor.build.errors import BuildError
from veilor.build.sign import TIMEOUT, old_format, registry_setting, sign_image
from veilor.build.stage import stage, tree_digest
from veilor.build.threats.image import image_problem
from veilor.build.threats.kinds.subject import Subject
from veilor.build.threats.model import Claim, ImageCheck, load_model
from veilor.build.threats.results import Result, fresh, load_results
from veilor.core.claims import PREDICATE
from veilor.core.product import load

CONTENT = 1 << 20  # bytes; no check reads a larger file, but each looks at what is there
BESIDE = "kickstart"  # what lies in the repository and in no image
OPAQUE, WHITEOUT = ".wh..wh..opq", ".wh."


def unpack(image: Path, dest: Path, run: Callable[..., Any]) -> Path:
    """Lay out the files of the IMAGE in the new folder DEST, as a machine has them; return DEST.

    IMAGE is a folder as skopeo's dir: writes it.

    Files above CONTENT bytes are empty there. Layers of our own say etc/ where the base's say usr/etc/: on a
    machine both are /etc. Raises BuildError for a layer that cannot be read, or would write outside of DEST.
    """
    dest.mkdir()
    for layer in json.loads((image / "manifest.json").read_text())["layers"]:
        file = image / layer["digest"].removeprefix("sha256:")
        if "zstd" in layer["mediaType"]:
            plain = file.with_suffix(".tar")
            run(["zstd", "-dqf", str(file), "-o", str(plain)], binds=[image], timeout=1800)
            file = plain
        try:
            with tarfile.open(file, "r|*") as tar:
                for member in tar:
                    lay(dest, tar, member)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise BuildError(
                f"layer {layer['digest']} cannot be read ({error}); nothing was attached"
            ) from None
    merge_etc(dest / "usr/etc", dest / "etc")
    return dest


def merge_etc(base: Path, etc: Path) -> None:
    """Copy into ETC what only BASE, the image's usr/etc, has."""
    for path in sorted(base.rglob("*")):
        target = etc / path.relative_to(base)
        if os.path.lexists(target):
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def inside(dest: Path, name: str) -> Path:
    """Where the tar member NAME lies below DEST. Raises BuildError for one that would lie outside of it."""
    path = dest / name.removeprefix("./").lstrip("/")
    if ".." in Path(name).parts:
        raise outside(name)
    if path != dest and not path.parent.resolve().is_relative_to(dest.resolve()):
        raise outside(name)  # through a link of an earlier layer
    return path


def outside(name: str) -> BuildError:
    """The error for a tar member NAME that lies outside of the image."""
    return BuildError(f"the image has a file {name}, which would lie outside of it; nothing was attached")


def remove(path: Path) -> None:
    """Remove PATH, whatever it is; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def lay(dest: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Put one MEMBER of a layer into DEST, or remove what its whiteout names; BuildError as `inside`."""
    path = inside(dest, member.name)
    if path == dest:
        return
    if path.name == OPAQUE:
        shutil.rmtree(path.parent, ignore_errors=True)
        return
    if path.name.startswith(WHITEOUT):
        remove(path.with_name(path.name.removeprefix(WHITEOUT)))
        return
    if member.isdir() and path.is_dir() and not path.is_symlink():
        return
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        path.mkdir()
    elif member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        source = inside(dest, member.linkname)
        if os.path.lexists(source):
            os.link(source, path, follow_symlinks=False)
    elif member.isreg():
        content = tar.extractfile(member) if member.size <= CONTENT else None
        path.write_bytes(content.read() if content else b"")
        path.chmod(member.mode | 0o600)


def of_image(claim: Claim) -> list[ImageCheck]:
    """The image checks of CLAIM that read an image's files, and not what only the repository has."""
    return [
        check
        for check in claim.image
        if not check.kind.startswith(BESIDE) and not check.arguments.get("path", "").startswith(BESIDE)
    ]


def on_image(source_root: Path, files: Path, when: str) -> list[dict[str, Any]]:
    """One PASS result for each claim that has a check of FILES, those of an image; WHEN is the day.

    Raises BuildError when a claim is not kept: such an image is not to be released.
    """
    model, found = load_model(source_root), []
    subject = Subject(files, source_root)
    for claim in model.claims:
        checks = of_image(claim)
        for check in checks:
            wrong = image_problem(subject, check)
            if wrong:
                raise BuildError(f"the image does not keep {claim.id} ({wrong}); nothing was attached")
        if checks:
            found.append(
                {
                    "claim": claim.id,
                    "layer": "image",
                    "verdict": "PASS",
                    "when": when,
                    "checks": [check.id for check in checks],
                }
            )
    return found


def on_tree(source_root: Path) -> tuple[str, list[dict[str, Any]]]:
    """The staged tree's digest, and what recorded rehearsals of that very tree showed, none of it stale."""
    with tempfile.TemporaryDirectory(prefix="veilor-attest-") as scratch:
        tree = tree_digest(stage(source_root, Path(scratch, "tree")))
    model = load_model(source_root)
    rows = []
    for one in load_results(source_root):
        if one.verdict and one.tree == tree and fresh(source_root, model, one):
            rows.append(attested(one))
    return tree, rows


def attested(one: Result) -> dict[str, Any]:
    """What an attestation says of ONE result."""
    return {
        "claim": one.claim,
        "layer": one.layer,
        "run": one.run,
        "verdict": one.verdict,
        "when": one.when,
        "base": one.base,
        "stand_ins": list(one.stand_ins),
        "seen_to_fail": one.proved,
    }


def attach(
    source_root: Path, ref: str, image: Path, *, key: Path, run: Callable[..., Any], ca: Path | None = None
) -> str:
    """Attach to REF what was shown of it and of its tree, signed by KEY; what that is, in words.

    REF is REPOSITORY@sha256:…, and its files lie in the folder IMAGE as skopeo's dir: writes them. What was
    attached before is replaced. Raises BuildError when a claim is not kept, and as `unpack`.
    """
    product, when = load(source_root / "product.toml"), datetime.now(UTC).strftime("%Y-%m-%d")
    env, binds = registry_setting(ca)
    with tempfile.TemporaryDirectory(prefix="veilor-attest-", dir=image.parent) as scratch:
        folder, key = Path(scratch), key.absolute()
        here = on_image(source_root, unpack(image, folder / "files", run), when)
        tree, elsewhere = on_tree(source_root)
        call = {"binds": [folder, key.parent, *binds], "env": env, "timeout": TIMEOUT}
        for name, rows in (("image", here), ("tree", elsewhere)):
            (folder / name).write_text(json.dumps({"results": rows}, sort_keys=True))

        def signed(verb: str, name: str, *more: str) -> None:
            """Run cosign's VERB on the predicate NAME, with MORE arguments."""
            given = [
                "--yes",
                "--key",
                str(key),
                "--type",
                PREDICATE,
                "--predicate",
                str(folder / name),
                "--tlog-upload=false",
            ]
            run(["cosign", verb, *given, *old_format(run, call, verb), *more], **call)

        signed("attest", "image", "--replace", ref)
        if elsewhere:
            signed(
                "attest-blob",
                "tree",
                "--hash",
                tree[7:],
                "--output-signature",
                str(folder / "signed"),
                "staged-tree",
            )
            run(["cosign", "attach", "attestation", "--attestation", str(folder / "signed"), ref], **call)
        repository, digest = ref.split("@")
        asked = [
            "skopeo",
            "inspect",
            "--no-tags",
            "--format={{.Digest}}",
            f"docker://{repository}:{digest.replace(':', '-')}.att",
        ]
        attached = run(asked, **call).stdout.decode().strip()
    sign_image(f"{repository}@{attached}", key, identity=product.image_repo, run=run, ca=ca)
    return (
        f"; attached: {len(here)} claims shown on this very image, {len(elsewhere)} results of "
        "rehearsals of its tree"
    )
