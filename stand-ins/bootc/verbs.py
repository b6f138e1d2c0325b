"""A stand-in for `bootc` on a Debian 13 ostree system: status, switch, upgrade and rollback.

It has the forms of these verbs that veilor-os uses. It pulls and verifies by the published crate ostree-ext
and deploys by libostree, as bootc itself does; recordings of bootc 1.16.9 hold its texts and decisions.
Exit codes: 0 done or nothing to do, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from report import (
    SIGNED,
    Deployments,
    Failure,
    Image,
    ProgressEvents,
    describe_image,
    describe_layer_changes,
    followed_image,
    format_size,
    status_document,
)

if TYPE_CHECKING:
    from sysroot import Host

BOOTED, RUN = Path("/run/ostree-booted"), "/run"
VERSION = "1.16.9"  # of the bootc whose behaviour this follows
# Options of each verb; those with = take a value.
OPTIONS: dict[str, set[str]] = {
    "status": {"format=", "format-version="},
    "switch": {"quiet", "progress-fd=", "enforce-container-sigpolicy"},
    "upgrade": {"quiet", "check", "download-only", "from-downloaded", "progress-fd="},
    "rollback": set(),
}
# Options that the real bootc has and this stand-in refuses.
REFUSED = {
    "apply",
    "soft-reboot",
    "transport",
    "retain",
    "mutate-in-place",
    "tag",
    "booted",
    "verbose",
    "json",
}
EXCLUSIVE = ("check", "download-only", "from-downloaded")  # at most one of these
NOT_OURS = "is not supported by this stand-in for bootc"
CONTEXTS = {"status": "Status: ", "switch": "Switching: ", "upgrade": "Upgrading: ", "rollback": "Rollback: "}
NOT_ROOT = "Preparing for write: Querying root privilege: This command must be executed as the root user"


class Usage(Failure):
    """A command line that cannot be run."""


@dataclass(frozen=True)
class Command:
    """A command line that was understood: the verb, its options by name, and what else was typed."""

    verb: str
    options: dict[str, str]
    arguments: list[str]


def parse(argv: list[str]) -> Command:
    """The command in ARGV. Raises Usage for what bootc refuses, and for what the front does not support."""
    verb = argv[0] if argv else ""
    if verb not in OPTIONS:
        raise Usage(f"'{verb}' {NOT_OURS}; it has: {', '.join(OPTIONS)}")
    command = Command(verb, {}, [])
    rest = list(argv[1:])
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.removeprefix("--").partition("=")
        if not arg.startswith("-"):
            command.arguments.append(arg)
        elif name in REFUSED:
            raise Usage(f"'--{name}' {NOT_OURS}")
        elif name + "=" in OPTIONS[verb] and (equals or rest):
            command.options[name] = value if equals else rest.pop(0)
        elif name in OPTIONS[verb] and arg.startswith("--") and not equals:
            command.options[name] = ""
        else:
            raise Usage(f"unexpected argument '{arg.partition('=')[0]}' found" + usage_hint(verb))
    check_usage(command)
    return command


def usage_hint(verb: str) -> str:
    """What bootc prints below a wrong use of VERB."""
    target = " <TARGET>" if verb == "switch" else ""
    return f"\n\nUsage: bootc {verb} [OPTIONS]{target}\n\nFor more information, try '--help'."


def check_usage(command: Command) -> None:
    """Raise Usage when the parts of COMMAND do not go together."""
    options, arguments, hint = command.options, command.arguments, usage_hint(command.verb)
    takes = 1 if command.verb == "switch" else 0
    if len(arguments) > takes:
        raise Usage(f"unexpected argument '{arguments[-1]}' found" + hint)
    if len(arguments) < takes:
        raise Usage("the following required arguments were not provided:\n  <TARGET>" + hint)
    if command.verb == "switch" and "enforce-container-sigpolicy" not in options:
        raise Usage(f"a switch without '--enforce-container-sigpolicy' {NOT_OURS}")
    exclusive = [name for name in options if name in EXCLUSIVE]
    if len(exclusive) > 1:
        raise Usage(f"the argument '--{exclusive[0]}' cannot be used with '--{exclusive[-1]}'" + hint)
    if options.get("format", "json") != "json":
        raise Usage(f"'--format={options['format']}' {NOT_OURS}; it writes json")
    fd = options.get("progress-fd", "3")
    if not fd.isdigit() or int(fd) < 3:
        raise Usage(f"invalid value '{fd}' for '--progress-fd <PROGRESS_FD>'" + hint)


def say(text: str) -> None:
    """Write TEXT to standard output at once: a caller follows it through a pipe."""
    print(text, flush=True)


class Pull:
    """A pull of one reference: while it runs, prints what bootc would and writes progress events."""

    def __init__(self, system: Host, origin: str, events: ProgressEvents) -> None:
        self.system, self.origin, self.events = system, origin, events
        self.name = origin
        self.needed: dict[
            str, int
        ] = {}  # bytes by digest of the layers to fetch, and of those that are there
        self.cached: dict[str, int] = {}
        self.importing = False

    def on_line(self, line: str) -> None:
        """Take a line of ostree-ext's output; the one about layers comes before the first is fetched."""
        if not line.startswith("layers already present"):
            return
        say(line)
        image = self.system.pending_image(self.origin)
        if (
            image is None
        ):  # a first pull of a reference leaves no note of what it fetches: only its end is known
            return
        self.name = image.digest
        self.cached = {digest: size for digest, size in image.layers.items() if self.system.has_layer(digest)}
        self.needed = {digest: size for digest, size in image.layers.items() if digest not in self.cached}

    def on_idle(self) -> None:
        """Report the layers that have come since; after the last one the import begins."""
        if self.importing or not self.needed:
            return
        fetched = {digest for digest in self.needed if self.system.has_layer(digest)}
        self.events.write_pulling(self.name, self.needed, fetched, self.cached)
        if len(fetched) == len(self.needed):
            self.importing = True
            self.events.write_importing(self.name, False)

    def run(self) -> tuple[Image, str]:
        """Verify and pull; the image and its commit. Raises Failure."""
        before = self.system.resolve_commit(self.origin)
        commit = self.system.pull(self.origin, None, self.on_line, self.on_idle)
        image, _ = self.system.read_images(commit, self.origin)
        if image is None:
            raise Failure(f"the commit {commit} is of no container image")
        if commit == before:
            say(f"No changes in {self.origin} => {image.digest}")
            return image, commit
        if not self.importing:
            self.events.write_importing(image.digest, False)
        self.events.write_importing(image.digest, True)
        return image, commit


def stage(system: Host, image: Image, commit: str, download_only: bool, events: ProgressEvents) -> None:
    """Stage COMMIT, then remove what no deployment needs any more."""
    began = time.monotonic()
    events.write_staging(image.digest, 0)
    events.write_staging(image.digest, 1)
    system.stage(image, commit, download_only)
    print(f"Deploying...done ({time.monotonic() - began:.0f} seconds)", file=sys.stderr, flush=True)
    events.write_staging(image.digest, 2)
    images, layers, size = system.prune()
    if images or layers or size:
        say(f"Pruned images: {images} (layers: {layers}, objsize: {format_size(size)})")
    events.write_staging(image.digest, 3)
    say(f"Queued for next boot: {image.origin}\n{describe_image(image)}")


def switch(system: Host, now: Deployments, reference: str, events: ProgressEvents) -> None:
    """Follow REFERENCE from now on, verified by the system's policy, and stage it."""
    origin = f"{SIGNED}:docker://{reference}"
    followed = followed_image(now)
    if followed and followed.origin == origin:
        say("Image specification is unchanged.")
        return
    try:
        image, commit = Pull(system, origin, events).run()
    except Failure as error:
        raise Failure(f"Switching (ostree): {error}") from None
    stage(system, image, commit, False, events)


def use_downloaded(system: Host, now: Deployments) -> None:
    """Let what was downloaded be booted next."""
    if now.staged is None:
        raise Failure("No staged deployment found")
    if now.staged.download_only:
        system.toggle_download_only(now.staged)
        say("Staged deployment will now be applied on reboot")
    else:
        say("Staged deployment is already set to apply on reboot")


def check(system: Host, now: Deployments, followed: Image) -> None:
    """Say whether the registry has an image of FOLLOWED's reference that was never pulled.

    As in bootc, one that was pulled and is not booted counts as no change.
    """
    with tempfile.TemporaryDirectory(dir=RUN) as folder:
        manifest = Path(folder, "manifest.json")
        system.pull(followed.origin, str(manifest), lambda line: None, lambda: None)
        newer = system.pending_image(followed.origin) if manifest.exists() else None
    if newer is None:
        say(f"No changes in: {followed.origin}")
        return
    old = now.booted.image if now.booted and now.booted.image else followed
    say(f"Update available for: {followed.origin}")
    say(f"{describe_image(newer)}\n{describe_layer_changes(old, newer)}")


def upgrade(
    system: Host, now: Deployments, followed: Image, download_only: bool, events: ProgressEvents
) -> None:
    """Stage the newest image of FOLLOWED's reference; with DOWNLOAD_ONLY it waits for no boot yet."""
    image, commit = Pull(system, followed.origin, events).run()
    staged = now.staged
    booted = now.booted.image if now.booted else None
    if staged and staged.image and staged.image.digest == image.digest:
        if download_only == staged.download_only:
            say("Staged update present, not changed")
        else:
            system.toggle_download_only(staged)
            will = "Image downloaded, but will not" if download_only else "Staged deployment will now"
            say(f"{will} be applied on reboot")
    elif booted and booted.digest == image.digest:
        say("No update available.")
    else:
        stage(system, image, commit, download_only, events)
        if booted:
            say(describe_layer_changes(booted, image))


def rollback(system: Host, now: Deployments) -> None:
    """Make the rollback deployment the next boot's, and drop what is staged.

    Where it is the next boot's already, the booted one becomes it again.
    """
    if now.rollback_queued:
        say("notice: Reverting queued rollback state")
    if now.rollback is None or now.booted is None:
        raise Failure("No rollback available")
    if now.rollback.image is None:
        raise Failure("Rollback is not container image based")
    if now.rollback_queued:
        system.set_boot_order([now.booted, now.rollback, *now.others])
        say("Next boot: current deployment")
    else:
        system.set_boot_order([now.rollback, now.booted, *now.others])
        say("Next boot: rollback deployment")


def open_host() -> Host:
    """The booted system. Imported only here, since a usage error needs no libostree."""
    import sysroot

    return sysroot.Host()


def run(command: Command) -> None:
    """Carry out COMMAND. Raises Failure."""
    verb, options = command.verb, command.options
    if options.get("format-version", "1") not in ("0", "1"):
        raise Failure(f"Unsupported format version: {options['format-version']}")
    if os.geteuid() != 0:
        raise Failure(NOT_ROOT if verb == "status" else f"Initializing storage: {NOT_ROOT}")
    events = ProgressEvents(int(options["progress-fd"]) if "progress-fd" in options else None)
    system = open_host() if BOOTED.exists() else None
    now = system.deployments() if system else Deployments()
    if verb == "status":
        say(json.dumps(status_document(now), sort_keys=True, separators=(",", ":")))
    elif system is None:
        raise Failure("System not booted via bootc.")
    elif verb == "rollback":
        rollback(system, now)
    elif verb == "switch":
        switch(system, now, command.arguments[0], events)
    elif "from-downloaded" in options:
        use_downloaded(system, now)
    else:
        followed = followed_image(now)
        if followed is None:
            raise Failure("No image specified")
        if "check" in options:
            check(system, now, followed)
        else:
            upgrade(system, now, followed, "download-only" in options, events)


def main(argv: list[str]) -> int:
    """Run the command line ARGV (without the program's name); the exit code."""
    # libostree blocks in C, where Python's own handlers do not run.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if argv in (["--version"], ["-V"]):
        say(f"bootc {VERSION}")
        return 0
    context, code = CONTEXTS.get(argv[0], "") if argv else "", 1
    try:
        run(parse(argv))
        return 0
    except Usage as error:
        context, reason, code = "", str(error), 2
    except Failure as error:
        reason = str(error)
        if argv[0] == "upgrade" and NOT_ROOT in reason:
            context = ""
    except OSError as error:
        reason = f"{error.strerror or error} (os error {error.errno})"
    except Exception as error:  # libostree's own have a message
        reason = getattr(error, "message", f"{type(error).__name__}: {error}")
    print(f"error: {context}{reason}", file=sys.stderr)
    return code
