"""The system's own side: deployments through libostree, pulls through the crate ostree-ext's command."""

from __future__ import annotations

import json
import os
import platform
import re
import selectors
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import gi

gi.require_version("OSTree", "1.0")
from gi.repository import Gio, GLib, OSTree  # noqa: E402 - the version has to be chosen first
from report import (  # noqa: E402
    SIGNED,
    Deployment,
    Deployments,
    Failure,
    Image,
    escape_ref,
    merge_kargs,
    storage_name,
)

REPO = "/sysroot/ostree/repo"
POLICY = "/etc/containers/policy.json"
IMAGES = "ostree/container/image"
LAYERS = "refs/heads/ostree/container/blob"
ORIGIN_GROUP, ORIGIN_KEY = "origin", "container-image-reference"
# Under which keys of a commit's metadata digest, config and manifest lie: of the image that it was made from,
# and, in its detached metadata, of the newer image that ostree-ext last saw.
OWN_KEYS = ("ostree.manifest-digest", "ostree.container.image-config", "ostree.manifest")
CACHED_KEYS = ("ostree-ext.cached.manifest-digest", "ostree-ext.cached.config", "ostree-ext.cached.manifest")
KARGS_KEYS = {"kargs", "match-architectures"}
# Seconds. A slow line may need hours for a whole image, yet nothing may wait for ever.
PULL_LIMIT = 6 * 3600.0
# bootc's newer ostree-ext opens the image one step later and says so once.
REASON = re.compile(r"^(Creating importer: failed to invoke method OpenImage: |Fetching manifest: )")


def get_string(metadata: GLib.Variant | None, key: str) -> str | None:
    """The string under KEY in a commit's METADATA, or None."""
    value = metadata.lookup_value(key, GLib.VariantType("s")) if metadata else None
    return value.get_string() if value else None


def image_from_metadata(
    metadata: GLib.Variant | None, origin: str, keys: tuple[str, str, str]
) -> Image | None:
    """The image that METADATA names under KEYS (its digest, config and manifest), or None."""
    digest, config, manifest = (get_string(metadata, key) for key in keys)
    if not digest:
        return None
    return Image(origin, digest, json.loads(config or "{}"), json.loads(manifest or "{}"))


def container_origin(deployment: OSTree.Deployment) -> str | None:
    """The container reference in DEPLOYMENT's origin file, or None where the origin is none."""
    origin = deployment.get_origin()
    if origin is None or not origin.has_group(ORIGIN_GROUP):
        return None
    if ORIGIN_KEY not in origin.get_keys(ORIGIN_GROUP)[0]:
        return None
    return origin.get_string(ORIGIN_GROUP, ORIGIN_KEY)


def image_ref(origin: str) -> str:
    """The ref under which the repository keeps the image pulled for ORIGIN."""
    return f"{IMAGES}/{escape_ref(storage_name(origin))}"


def refuse_open_policy(origin: str) -> None:
    """Raise Failure when ORIGIN is to be verified and the system's policy accepts anything by default.

    As in bootc: such a policy would verify nothing. An origin that is not signed asks for no policy.
    """
    if not origin.startswith(f"{SIGNED}:"):
        return
    policy = json.loads(Path(POLICY).read_text())
    for rule in policy.get("default", ()):
        if rule.get("type") == "insecureAcceptAnything":
            raise Failure(
                "Preparing import: Fetching manifest: containers-policy.json specifies a default of "
                "`insecureAcceptAnything`; refusing usage"
            )


def commit_in(line: str) -> str | None:
    """The commit that a LINE of the pull's output names as its result, or None for another line."""
    if line.startswith(("Wrote: ", "No changes in ")):
        return line.rpartition(" => ")[2]
    return None


class Host:
    """The booted system, its sysroot locked (waiting for another holder) in a mount namespace of our own."""

    def __init__(self) -> None:
        # libostree makes /sysroot and /boot writable in this namespace, not for the whole system.
        os.unshare(os.CLONE_NEWNS)
        self.sysroot = OSTree.Sysroot.new_default()
        self.sysroot.set_mount_namespace_in_use()
        self.sysroot.lock()
        self.sysroot.load(None)
        self.repo = self.sysroot.repo()

    def read_images(self, commit: str, origin: str) -> tuple[Image | None, Image | None]:
        """The image that COMMIT was made from, and the newer one last seen by a check or upgrade."""
        metadata = self.repo.load_commit(commit)[1].get_child_value(0)
        _, detached = self.repo.read_commit_detached_metadata(commit, None)
        own = image_from_metadata(metadata, origin, OWN_KEYS)
        return own, image_from_metadata(detached, origin, CACHED_KEYS)

    def read_deployment(self, deployment: OSTree.Deployment) -> Deployment:
        """DEPLOYMENT as status needs it; without an image unless its origin is a container."""
        origin = container_origin(deployment)
        image, cached_update = self.read_images(deployment.get_csum(), origin) if origin else (None, None)
        return Deployment(
            checksum=deployment.get_csum(),
            serial=deployment.get_deployserial(),
            stateroot=deployment.get_osname(),
            image=image,
            cached_update=cached_update,
            pinned=deployment.is_pinned(),
            download_only=deployment.is_staged() and deployment.is_finalization_locked(),
            handle=deployment,
        )

    def deployments(self) -> Deployments:
        """All deployments, in the parts that bootc gives them.

        The rollback is the first of the booted one's stateroot that is neither booted nor staged.
        """
        booted = self.sysroot.require_booted_deployment()
        everything = self.sysroot.get_deployments()
        staged = next((one for one in everything if one.is_staged()), None)
        rest = [one for one in everything if not one.is_staged() and not one.equal(booted)]
        rollback = next((one for one in rest if one.get_osname() == booted.get_osname()), None)
        return Deployments(
            staged=self.read_deployment(staged) if staged else None,
            booted=self.read_deployment(booted),
            rollback=self.read_deployment(rollback) if rollback else None,
            others=tuple(self.read_deployment(one) for one in rest if one is not rollback),
            rollback_queued=rollback is not None and rollback.get_index() < booted.get_index(),
        )

    def resolve_commit(self, origin: str) -> str | None:
        """The commit of the newest image pulled for ORIGIN, or None."""
        return self.repo.resolve_rev(image_ref(origin), True)[1]

    def pending_image(self, origin: str) -> Image | None:
        """The image that a running pull of ORIGIN fetches, as ostree-ext notes it on the commit before."""
        commit = self.resolve_commit(origin)
        return self.read_images(commit, origin)[1] if commit else None

    def has_layer(self, digest: str) -> bool:
        """Whether the layer DIGEST is in the repository."""
        return Path(REPO, LAYERS, escape_ref(digest)).exists()

    def pull(
        self,
        origin: str,
        manifest: str | None,
        on_line: Callable[[str], None],
        on_idle: Callable[[], None],
    ) -> str:
        """Verify and pull ORIGIN; the commit that it is now.

        With MANIFEST nothing is pulled, a newer manifest is written to that file, and the commit is empty.
        ON_LINE gets each line of output, ON_IDLE is called about five times a second. Raises Failure with
        the reason.
        """
        refuse_open_policy(origin)
        # Without the parent-death signal the pull would go on, unlocked, when the front is ended.
        argv = ["setpriv", "--pdeathsig", "TERM", "ostree", "container", "image", "pull", "--quiet"]
        argv += [REPO, origin, *([f"--check={manifest}"] if manifest else [])]
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdout and child.stderr  # both are pipes
        texts = {"output": b"", "errors": b""}
        deadline = time.monotonic() + PULL_LIMIT
        commit = ""
        with selectors.DefaultSelector() as watch:
            watch.register(child.stdout, selectors.EVENT_READ, "output")
            watch.register(child.stderr, selectors.EVENT_READ, "errors")
            while watch.get_map():
                if time.monotonic() > deadline:
                    child.kill()
                for key, _ in watch.select(0.2):
                    data = os.read(key.fd, 65536)
                    texts[key.data] += data
                    if not data:
                        watch.unregister(key.fileobj)
                *lines, texts["output"] = texts["output"].split(b"\n")
                for line in (raw.decode(errors="replace") for raw in lines):
                    commit = commit_in(line) or commit
                    on_line(line)
                on_idle()
        code = child.wait()
        if code == 0 and (commit or manifest):
            return commit
        warnings, _, reason = texts["errors"].decode(errors="replace").strip().rpartition("error: ")
        sys.stderr.write(warnings)
        reason = REASON.sub("Preparing import: Fetching manifest: ", reason)
        raise Failure(reason or f"the pull ended with {code}")

    def read_kargs(self, commit: str) -> list[str]:
        """The kernel arguments that the image COMMIT asks for in kargs.d, in the order of its files.

        Raises Failure for a file that is no TOML, or that has a key which bootc does not know.
        """
        folder = self.repo.read_commit(commit, None)[1].resolve_relative_path("usr/lib/bootc/kargs.d")
        if not folder.query_exists(None):
            return []
        listed = folder.enumerate_children("standard::name", Gio.FileQueryInfoFlags.NONE, None)
        machine = platform.machine()
        found: list[str] = []
        for name in sorted(info.get_name() for info in listed if info.get_name().endswith(".toml")):
            raw = folder.get_child(name).read(None).read_bytes(1 << 20, None).get_data()
            try:
                table = tomllib.loads(raw.decode())
            except ValueError as error:
                raise Failure(f"Parsing {name}: {error}") from None
            if set(table) - KARGS_KEYS:
                raise Failure(f"Parsing {name}: unknown field, expected `kargs` or `match-architectures`")
            if machine in table.get("match-architectures", [machine]):
                found += table.get("kargs", [])
        return found

    def stage(self, image: Image, commit: str, download_only: bool) -> None:
        """Deploy COMMIT for the next boot in place of anything staged; with DOWNLOAD_ONLY for no boot yet."""
        stateroot = self.sysroot.get_booted_deployment().get_osname()
        origin = GLib.KeyFile()
        origin.set_string(ORIGIN_GROUP, ORIGIN_KEY, image.origin)
        merge = self.sysroot.get_merge_deployment(stateroot)
        options = (merge.get_bootconfig().get("options") or "").split()
        kargs = merge_kargs(options, self.read_kargs(merge.get_csum()), self.read_kargs(commit))
        self.sysroot.stage_tree(stateroot, commit, origin, merge, kargs, None)
        self.sysroot.load(None)
        staged = self.sysroot.get_staged_deployment()
        if download_only != staged.is_finalization_locked():
            # Safe between the two: finalizing waits for the lock that we hold.
            self.sysroot.change_finalization(staged)

    def toggle_download_only(self, staged: Deployment) -> None:
        """Turn a downloaded deployment into one for the next boot, or the other way round."""
        self.sysroot.change_finalization(staged.handle)

    def set_boot_order(self, order: list[Deployment]) -> None:
        """Make ORDER the boot order, the first being the default; what is staged is dropped."""
        self.sysroot.write_deployments([deployment.handle for deployment in order], None)

    def prune(self) -> tuple[int, int, int]:
        """Remove what no deployment needs; how many images, layers and bytes of objects went."""
        self.sysroot.prepare_cleanup(None)  # writes the refs that keep the deployments' commits
        images = [self.read_deployment(deployment).image for deployment in self.sysroot.get_deployments()]
        needed = {image_ref(image.origin) for image in images if image}
        refs = self.repo.list_refs_ext(IMAGES, OSTree.RepoListRefsExtFlags.NONE, None)[1]
        stale = [ref for ref in refs if ref not in needed]
        for ref in stale:
            self.repo.set_ref_immediate(None, ref, None, None)
        argv = ["ostree", "container", "image", "prune-layers", f"--repo={REPO}"]
        said = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False).stdout
        layers = int(said.rpartition(" ")[2] or 0)
        size = self.repo.prune(OSTree.RepoPruneFlags.REFS_ONLY, 0, None)[3]
        return len(stale), layers, size
