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
from report import Deployments, Entry, Failure, Image, escape_ref, merge_kargs, storage_name  # noqa: E402

REPO = "/sysroot/ostree/repo"
IMAGES = "ostree/container/image"
ORIGIN_KEY = ("origin", "container-image-reference")
PULL_LIMIT = (
    6 * 3600.0
)  # seconds; a slow line may need hours for a whole image, yet nothing may wait for ever
# bootc's newer ostree-ext opens the image one step later and says so once.
REASON = re.compile(r"^(Creating importer: failed to invoke method OpenImage: |Fetching manifest: )")


def lookup(metadata: GLib.Variant | None, key: str) -> str | None:
    """A string out of a commit's metadata."""
    value = metadata.lookup_value(key, GLib.VariantType("s")) if metadata else None
    return value and value.get_string()


def image_in(
    metadata: GLib.Variant | None, origin: str, digest: str, config: str, manifest: str
) -> Image | None:
    """The image that METADATA tells of under the keys DIGEST, CONFIG and MANIFEST."""
    found = lookup(metadata, digest)
    return found and Image(
        origin, found, *(json.loads(lookup(metadata, key) or "{}") for key in (config, manifest))
    )


class Host:
    """The booted system, its sysroot locked (waiting for another holder) in a mount namespace of our own."""

    def __init__(self) -> None:
        os.unshare(
            os.CLONE_NEWNS
        )  # libostree makes /sysroot and /boot writable here, not for the whole system
        self.sysroot = OSTree.Sysroot.new_default()
        self.sysroot.set_mount_namespace_in_use()
        self.sysroot.lock()
        self.sysroot.load(None)
        self.repo = self.sysroot.repo()

    def image(self, commit: str, origin: str) -> tuple[Image | None, Image | None]:
        """The image that COMMIT was made from and the newer one last seen by a check or upgrade, if any."""
        metadata = self.repo.load_commit(commit)[1].get_child_value(0)
        _, noted = self.repo.read_commit_detached_metadata(commit, None)
        return (
            image_in(
                metadata, origin, "ostree.manifest-digest", "ostree.container.image-config", "ostree.manifest"
            ),
            image_in(
                noted,
                origin,
                *(f"ostree-ext.cached.{key}" for key in ("manifest-digest", "config", "manifest")),
            ),
        )

    def entry(self, deployment: OSTree.Deployment) -> Entry:
        """DEPLOYMENT as status needs it; without an image unless its origin is a container."""
        origin, image = deployment.get_origin(), (None, None)
        if (
            origin is not None
            and origin.has_group(ORIGIN_KEY[0])
            and ORIGIN_KEY[1] in origin.get_keys(ORIGIN_KEY[0])[0]
        ):
            image = self.image(deployment.get_csum(), origin.get_string(*ORIGIN_KEY))
        locked = deployment.is_staged() and deployment.is_finalization_locked()
        place = (deployment.get_csum(), deployment.get_deployserial(), deployment.get_osname())
        return Entry(*place, *image, deployment.is_pinned(), locked, deployment)

    def deployments(self) -> Deployments:
        """All deployments, in the parts that bootc gives them: the first of our stateroot besides the booted
        is the rollback.
        """
        booted, everything = self.sysroot.require_booted_deployment(), self.sysroot.get_deployments()
        staged = next((self.entry(d) for d in everything if d.is_staged()), None)
        rest = [d for d in everything if not d.is_staged() and not d.equal(booted)]
        rollback = next((d for d in rest if d.get_osname() == booted.get_osname()), None)
        others = [self.entry(d) for d in rest if d is not rollback]
        queued = rollback is not None and rollback.get_index() < booted.get_index()
        return Deployments(staged, self.entry(booted), rollback and self.entry(rollback), others, queued)

    def resolve(self, origin: str) -> str | None:
        """The commit of the newest image pulled for ORIGIN, or None."""
        return self.repo.resolve_rev(f"{IMAGES}/{escape_ref(storage_name(origin))}", True)[1]

    def pending(self, origin: str) -> Image | None:
        """The image that a running pull of ORIGIN is fetching: ostree-ext notes it on the commit pulled
        before.
        """
        commit = self.resolve(origin)
        return commit and self.image(commit, origin)[1]

    def present(self, digest: str) -> bool:
        """Whether the layer DIGEST is in the repository."""
        return Path(REPO, "refs/heads/ostree/container/blob", escape_ref(digest)).exists()

    def pull(
        self, origin: str, check: str | None, said: Callable[[str], None], idle: Callable[[], None]
    ) -> str:
        """Verify and pull ORIGIN, or with CHECK only write a newer manifest to that file; the commit that it
        is now.

        SAID gets each line of output, IDLE is called about five times a second. Raises Failure with the
        reason.
        """
        policy = (
            json.loads(Path("/etc/containers/policy.json").read_text())
            if origin.startswith("ostree-image-signed:")
            else {}
        )
        if any(rule.get("type") == "insecureAcceptAnything" for rule in policy.get("default", ())):
            raise Failure(
                "Preparing import: Fetching manifest: containers-policy.json specifies a default of "
                "`insecureAcceptAnything`; refusing usage"
            )
        # Without the parent-death signal the pull would go on, unlocked, when the front is told to end.
        argv = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            "ostree",
            "container",
            "image",
            "pull",
            "--quiet",
            REPO,
            origin,
        ]
        argv += [f"--check={check}"] if check else []
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        texts, deadline, commit = {child.stdout: b"", child.stderr: b""}, time.monotonic() + PULL_LIMIT, ""
        with selectors.DefaultSelector() as watch:
            for stream in texts:
                watch.register(stream, selectors.EVENT_READ)
            while watch.get_map():
                if time.monotonic() > deadline:
                    child.kill()
                for key, _ in watch.select(0.2):
                    data = os.read(key.fd, 65536)
                    texts[key.fileobj] += data
                    if not data:
                        watch.unregister(key.fileobj)
                *lines, texts[child.stdout] = texts[child.stdout].split(b"\n")
                for line in (line.decode(errors="replace") for line in lines):
                    commit = (
                        line.rpartition(" => ")[2]
                        if line.startswith(("Wrote: ", "No changes in "))
                        else commit
                    )
                    said(line)
                idle()
        warnings, _, reason = texts[child.stderr].decode(errors="replace").strip().rpartition("error: ")
        if child.wait() or not (commit or check):
            sys.stderr.write(warnings)
            raise Failure(
                REASON.sub("Preparing import: Fetching manifest: ", reason)
                or f"the pull ended with {child.returncode}"
            )
        return commit

    def kargs_d(self, commit: str) -> list[str]:
        """The kernel arguments that the image COMMIT asks for in kargs.d, in the order of its files."""
        folder, found, here = (
            self.repo.read_commit(commit, None)[1].resolve_relative_path("usr/lib/bootc/kargs.d"),
            [],
            platform.machine(),
        )
        listed = (
            folder.enumerate_children("standard::name", Gio.FileQueryInfoFlags.NONE, None)
            if folder.query_exists(None)
            else ()
        )
        for name in sorted(info.get_name() for info in listed if info.get_name().endswith(".toml")):
            try:
                table = tomllib.loads(
                    folder.get_child(name).read(None).read_bytes(1 << 20, None).get_data().decode()
                )
            except ValueError as error:
                raise Failure(f"Parsing {name}: {error}") from None
            if set(table) - {"kargs", "match-architectures"}:
                raise Failure(f"Parsing {name}: unknown field, expected `kargs` or `match-architectures`")
            found += table.get("kargs", []) if here in table.get("match-architectures", [here]) else []
        return found

    def stage(self, image: Image, commit: str, locked: bool) -> None:
        """Deploy COMMIT for the next boot in place of anything staged; LOCKED: downloaded only, not for the
        next boot.
        """
        origin, name = GLib.KeyFile(), self.sysroot.get_booted_deployment().get_osname()
        origin.set_string(*ORIGIN_KEY, image.origin)
        merge = self.sysroot.get_merge_deployment(name)
        options = (merge.get_bootconfig().get("options") or "").split()
        kargs = merge_kargs(options, self.kargs_d(merge.get_csum()), self.kargs_d(commit))
        self.sysroot.stage_tree(name, commit, origin, merge, kargs, None)
        self.sysroot.load(None)
        staged = self.sysroot.get_staged_deployment()
        if locked != staged.is_finalization_locked():
            self.sysroot.change_finalization(
                staged
            )  # safe between the two: finalizing waits for the lock we hold

    def toggle_lock(self, staged: Entry) -> None:
        """Turn a downloaded deployment into one for the next boot, or the other way round."""
        self.sysroot.change_finalization(staged.handle)

    def reorder(self, order: list[Entry]) -> None:
        """Make ORDER the boot order, the first being the default; what is staged is dropped."""
        self.sysroot.write_deployments([entry.handle for entry in order], None)

    def prune(self) -> tuple[int, int, int]:
        """Remove images, layers and objects that no deployment needs: (images, layers, bytes) removed."""
        self.sysroot.prepare_cleanup(None)  # writes the refs that keep the deployments' commits
        images = [self.entry(deployment).image for deployment in self.sysroot.get_deployments()]
        keep = {f"{IMAGES}/{escape_ref(storage_name(image.origin))}" for image in images if image}
        stale = [
            ref
            for ref in self.repo.list_refs_ext(IMAGES, OSTree.RepoListRefsExtFlags.NONE, None)[1]
            if ref not in keep
        ]
        for ref in stale:
            self.repo.set_ref_immediate(None, ref, None, None)
        argv = ["ostree", "container", "image", "prune-layers", f"--repo={REPO}"]
        layers = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False).stdout
        return (
            len(stale),
            int(layers.rpartition(" ")[2] or 0),
            self.repo.prune(OSTree.RepoPruneFlags.REFS_ONLY, 0, None)[3],
        )
