"""A stand-in for `bootc` on a Debian 13 ostree system: status, switch, upgrade and rollback as the product
uses them.

It pulls and verifies by the published crate ostree-ext and deploys by libostree, as bootc itself does; its
texts and decisions are held against recordings of bootc 1.16.9. Exit codes: 0 done or nothing to do, 1
failed, 2 wrong usage.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from report import Deployments, Failure, Image, Progress, describe, followed, format_size, host, layer_diff

BOOTED, RUN = Path("/run/ostree-booted"), "/run"
# Options of each verb, those with = take a value; and what only the real one can do.
OPTIONS = {
    "status": {"format=", "format-version="},
    "switch": {"quiet", "progress-fd=", "enforce-container-sigpolicy"},
    "upgrade": {"quiet", "check", "download-only", "from-downloaded", "progress-fd="},
    "rollback": set(),
}
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
CONTEXTS = {"status": "Status: ", "switch": "Switching: ", "upgrade": "Upgrading: ", "rollback": "Rollback: "}
NOT_ROOT = "Preparing for write: Querying root privilege: This command must be executed as the root user"


class Usage(Failure):
    """A command line that cannot be run."""


def parse(argv: list[str]) -> tuple[str, dict[str, str], list[str]]:
    """The verb, its options and its other arguments. Raises Usage, for what the front does not support as
    well.
    """
    verb, rest, given, others = argv[0] if argv else "", list(argv[1:]), {}, []
    ours = "is not supported by this stand-in for bootc"
    if verb not in OPTIONS:
        raise Usage(f"'{verb}' {ours}; it has: {', '.join(OPTIONS)}")
    wanted = int(verb == "switch")
    more = f"\n\nUsage: bootc {verb} [OPTIONS]{' <TARGET>' * wanted}\n\nFor more information, try '--help'."
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.removeprefix("--").partition("=")
        if not arg.startswith("-"):
            others.append(arg)
        elif name in REFUSED:
            raise Usage(f"'--{name}' {ours}")
        elif name + "=" in OPTIONS[verb] and (equals or rest):
            given[name] = value if equals else rest.pop(0)
        elif name in OPTIONS[verb] and arg.startswith("--") and not equals:
            given[name] = ""
        else:
            raise Usage(f"unexpected argument '{arg.partition('=')[0]}' found" + more)
    alone = [name for name in given if name in ("check", "download-only", "from-downloaded")]
    fd = given.get("progress-fd", "3")
    for wrong, text in (
        (len(others) > wanted, f"unexpected argument '{others[-1] if others else ''}' found" + more),
        (len(others) < wanted, "the following required arguments were not provided:\n  <TARGET>" + more),
        (
            wanted and "enforce-container-sigpolicy" not in given,
            f"a switch without '--enforce-container-sigpolicy' {ours}",
        ),
        (
            len(alone) > 1,
            f"the argument '--{alone[0] if alone else ''}' cannot be used with "
            f"'--{alone[-1] if alone else ''}'" + more,
        ),
        (given.get("format", "json") != "json", f"'--format={given.get('format')}' {ours}; it writes json"),
        (not fd.isdigit() or int(fd) < 3, f"invalid value '{fd}' for '--progress-fd <PROGRESS_FD>'" + more),
    ):
        if wrong:
            raise Usage(text)
    return verb, given, others


def say(text: str) -> None:
    """Text for standard output, at once: a caller follows it through a pipe."""
    print(text, flush=True)


def pull(system, origin: str, progress: Progress) -> tuple[Image, str]:
    """Verify and pull ORIGIN, saying what bootc would and writing progress; the image and its commit."""
    name, needed, cached, imported = origin, {}, {}, False

    def said(line: str) -> None:
        nonlocal name, needed, cached
        if line.startswith("layers already present"):
            say(line)
            image = system.pending(origin)
            if (
                image is not None
            ):  # a first pull of a reference leaves no note of what it fetches: then only the end is told
                name, cached = (
                    image.digest,
                    {digest: size for digest, size in image.layers.items() if system.present(digest)},
                )
                needed = {digest: size for digest, size in image.layers.items() if digest not in cached}

    def idle() -> None:
        nonlocal imported
        if needed and not imported:
            fetched = {digest for digest in needed if system.present(digest)}
            progress.pulling(name, needed, fetched, cached)
            imported = len(fetched) == len(needed)
            if imported:
                progress.importing(name, False)

    before = system.resolve(origin)
    commit = system.pull(origin, None, said, idle)
    image, _ = system.image(commit, origin)
    if commit == before:
        say(f"No changes in {origin} => {image.digest}")
        return image, commit
    if not imported:
        progress.importing(image.digest, False)
    progress.importing(image.digest, True)
    return image, commit


def stage(system, image: Image, commit: str, locked: bool, progress: Progress) -> None:
    """Stage COMMIT, then remove what no deployment needs any more."""
    began = time.monotonic()
    progress.staging(image.digest, 0)
    progress.staging(image.digest, 1)
    system.stage(image, commit, locked)
    print(f"Deploying...done ({time.monotonic() - began:.0f} seconds)", file=sys.stderr, flush=True)
    progress.staging(image.digest, 2)
    images, layers, size = system.prune()
    if images or layers or size:
        say(f"Pruned images: {images} (layers: {layers}, objsize: {format_size(size)})")
    progress.staging(image.digest, 3)
    say(f"Queued for next boot: {image.origin}\n{describe(image)}")


def switch(system, now: Deployments, reference: str, progress: Progress) -> None:
    """Follow REFERENCE from now on, verified by the system's policy, and stage it."""
    origin = f"ostree-image-signed:docker://{reference}"
    if followed(now) and followed(now).origin == origin:
        return say("Image specification is unchanged.")
    try:
        image, commit = pull(system, origin, progress)
    except Failure as error:
        raise Failure(f"Switching (ostree): {error}") from None
    stage(system, image, commit, False, progress)


def from_downloaded(system, now: Deployments) -> None:
    """Let what was downloaded be booted next."""
    if now.staged is None:
        raise Failure("No staged deployment found")
    if now.staged.locked:
        system.toggle_lock(now.staged)
    say(
        f"Staged deployment {'will now be applied' if now.staged.locked else 'is already set to apply'} on "
        "reboot"
    )


def check(system, now: Deployments) -> None:
    """Say whether the registry has something that was never pulled (also when it is not booted: so does
    bootc).
    """
    spec = followed(now)
    with tempfile.TemporaryDirectory(dir=RUN) as folder:
        manifest = Path(folder, "manifest.json")
        system.pull(spec.origin, str(manifest), lambda line: None, lambda: None)
        newer = system.pending(spec.origin) if manifest.exists() else None
    say(f"{'Update available for' if newer else 'No changes in'}: {spec.origin}")
    if newer:
        say(f"{describe(newer)}\n{layer_diff(now.booted.image or spec, newer)}")


def upgrade(system, now: Deployments, download_only: bool, progress: Progress) -> None:
    """Stage the newest image of the reference followed; DOWNLOAD_ONLY: not for the next boot yet."""
    image, commit = pull(system, followed(now).origin, progress)
    staged, booted = now.staged, now.booted
    if staged and staged.image and staged.image.digest == image.digest:
        if download_only == staged.locked:
            return say("Staged update present, not changed")
        system.toggle_lock(staged)
        say(
            f"{'Image downloaded, but will not' if download_only else 'Staged deployment will now'} be "
            "applied on reboot"
        )
    elif booted.image and booted.image.digest == image.digest:
        say("No update available.")
    else:
        stage(system, image, commit, download_only, progress)
        if booted.image:
            say(layer_diff(booted.image, image))


def rollback(system, now: Deployments) -> None:
    """Make the rollback deployment the next boot's, or, when it already is, the booted one; drop what is
    staged.
    """
    if now.rollback_queued:
        say("notice: Reverting queued rollback state")
    if now.rollback is None or now.rollback.image is None:
        raise Failure("Rollback is not container image based" if now.rollback else "No rollback available")
    first, second = (now.booted, now.rollback) if now.rollback_queued else (now.rollback, now.booted)
    system.reorder([first, second, *now.others])
    say(f"Next boot: {'current' if now.rollback_queued else 'rollback'} deployment")


def run(verb: str, given: dict[str, str], others: list[str]) -> None:
    """Carry out VERB. Raises Failure."""
    if given.get("format-version", "1") not in ("0", "1"):
        raise Failure(f"Unsupported format version: {given['format-version']}")
    if os.geteuid() != 0:
        raise Failure(NOT_ROOT if verb == "status" else f"Initializing storage: {NOT_ROOT}")
    progress = Progress(int(given["progress-fd"]) if "progress-fd" in given else None)
    if not BOOTED.exists() and verb != "status":
        raise Failure("System not booted via bootc.")
    from sysroot import Host  # only here: a usage error needs no libostree

    system = Host() if BOOTED.exists() else None
    now = system.deployments() if system else Deployments()
    if verb == "status":
        say(json.dumps(host(now), sort_keys=True, separators=(",", ":")))
    elif verb == "rollback":
        rollback(system, now)
    elif verb == "switch":
        switch(system, now, others[0], progress)
    elif "from-downloaded" in given:
        from_downloaded(system, now)
    elif followed(now) is None:
        raise Failure("No image specified")
    elif "check" in given:
        check(system, now)
    else:
        upgrade(system, now, "download-only" in given, progress)


def main(argv: list[str]) -> int:
    """Run the command line ARGV (without the program's name); the exit code."""
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # libostree blocks in C, where Python's own handlers do not run
    if argv in (["--version"], ["-V"]):
        say("bootc 1.16.9")  # the one whose behaviour this follows
        return 0
    context, code = CONTEXTS.get(argv[0], "") if argv else "", 1
    try:
        run(*parse(argv))
        return 0
    except Usage as error:
        context, reason, code = "", str(error), 2
    except Failure as error:
        reason = str(error)
        context = "" if argv[0] == "upgrade" and NOT_ROOT in reason else context
    except OSError as error:
        reason = f"{error.strerror or error} (os error {error.errno})"
    except Exception as error:  # libostree's own have a message
        reason = getattr(error, "message", f"{type(error).__name__}: {error}")
    print(f"error: {context}{reason}", file=sys.stderr)
    return code
