"""The `veilor` command: one sub-command per verb, each importing what it needs when it runs."""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from veilor.command_line import parser

SOURCE_ROOT = Path(__file__).resolve().parents[2]
FAILED, USAGE, NOT_RUN, INTERRUPTED = 1, 2, 4, 130

BUILD_FUNCTIONS = {
    "stage": "stage",
    "build_iso": "iso",
    "flatten_kickstart": "kickstart",
    "sign_image": "sign",
    "generate_keys": "sign",
    "make_statement": "channel",
    "publish": "channel",
    "read_medium": "iso",
    "snapshot": "threats.results",
}


def product_tools() -> SimpleNamespace:
    """What makes the product, for the lab, which doesn't import it: `source_root` and functions.

    The functions are those of BUILD_FUNCTIONS, with the docstrings that they have there.
    """
    found = {
        name: judged(getattr(importlib.import_module(f"veilor.build.{module}"), name))
        for name, module in BUILD_FUNCTIONS.items()
    }
    return SimpleNamespace(source_root=SOURCE_ROOT, **found)


def judged(function):
    """FUNCTION so that a BuildError becomes the verdict that it means in a rehearsal.

    Sources that can't be built are the product's fault; a host without room is the lab's.
    """
    from veilor.build.errors import BuildError, HostError
    from veilor.lab.verdict import LabFault, OSFault

    @functools.wraps(function)
    def call(*arguments, **options):
        """FUNCTION, with its BuildError translated."""
        try:
            return function(*arguments, **options)
        except HostError as error:
            raise LabFault(str(error)) from None
        except BuildError as error:
            raise OSFault(f"the product cannot be built: {error}") from None

    return call


def host_run(argv, *, binds=(), env=None, timeout, stdin=None, check=True):
    """Run ARGV with the host's own programs; called and answering as the tools tree's `run`.

    BINDS is needless here. TIMEOUT is in seconds. Raises BuildError as that one raises its faults.
    """
    from veilor.build.errors import BuildError

    try:
        done = subprocess.run(
            argv,
            input=stdin or b"",
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **(env or {})},
        )
    except FileNotFoundError:
        raise BuildError(f"{argv[0]} is not installed here; install it, or leave out --host-tools") from None
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"{argv[0]} did not end within {timeout:.0f} s; see whether the registry answers, and try again"
        ) from None
    if check and done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise BuildError(f"{argv[0]} ended with {done.returncode}: {' / '.join(said[-3:])[-600:]}")
    return done


def runner(args):
    """The `run` that build functions take: in the cached tools tree, or with --host-tools on this host."""
    return host_run if args.host_tools else tools().run


def tools():
    """The tools tree, made now if it is not in the cache."""
    from veilor.lab.cache import cache_root
    from veilor.lab.phases import stop_on_signals
    from veilor.lab.tools import ensure_host_programs, ensure_namespaces, tools_tree

    with stop_on_signals():
        ensure_host_programs()
        ensure_namespaces()
        return tools_tree(cache_root())


def product():
    """The product's facts from this clone."""
    from veilor.core.product import load

    return load(SOURCE_ROOT / "product.toml")


def do_product(args) -> int:
    """`veilor product`: print one fact."""
    from veilor.build.facts import fact

    print(fact(SOURCE_ROOT, args.fact))
    return 0


def do_stage(args) -> int:
    """`veilor stage`: write the staged tree."""
    from veilor.build.renew import fetch_statement, floor_of
    from veilor.build.stage import stage

    floor = args.sequence_floor
    if floor == "channel":
        floor = floor_of(product(), fetch_statement(SOURCE_ROOT, run=runner(args), keys_dir=args.keys))
    print(stage(SOURCE_ROOT, args.dir, args.keys, floor))
    return 0


def do_iso(args) -> int:
    """`veilor iso`: build an ISO; refused while the keys are placeholders, unless it has no key of ours."""
    from veilor.build.iso import build_iso
    from veilor.build.readiness import refuse_placeholders

    if not args.mutable:  # which has no key of ours on it
        refuse_placeholders(SOURCE_ROOT)
    kickstart = SOURCE_ROOT / ("kickstart/veilor-os.ks" if args.mutable else "kickstart/install.ks")
    print(build_iso(args.medium, args.layout, kickstart, args.out, run=runner(args)))
    return 0


def do_sign(args) -> int:
    """`veilor sign`: sign an image; refused while the keys are placeholders."""
    from veilor.build.readiness import refuse_placeholders
    from veilor.build.sign import sign_image

    refuse_placeholders(SOURCE_ROOT)
    identity = args.identity or args.ref.split("@")[0]
    new = sign_image(args.ref, args.key, identity=identity, run=runner(args), ca=args.ca)
    print(f"{args.ref}: {'signed' if new else 'was signed by this key before'} as {identity}")
    return 0


def do_channel(args) -> int:
    """`veilor channel`: announce an image, or the same again; refused while the keys are placeholders."""
    from veilor.build.channel import make_statement, publish
    from veilor.build.readiness import refuse_placeholders
    from veilor.build.renew import fetch_statement, renew

    refuse_placeholders(SOURCE_ROOT)
    facts = product()
    issued = int(time.time()) if args.issued is None else args.issued
    if args.renew:
        said = renew(facts, fetch_statement(SOURCE_ROOT, run=runner(args), ca=args.ca), issued, args.days)
    else:
        said = make_statement(
            facts,
            digest=args.digest,
            version=args.image_version,
            sequence=args.sequence,
            epoch=facts.epoch if args.epoch is None else args.epoch,
            issued=issued,
            expires=issued + args.days * 86400,
            rollout_hours=args.rollout_hours,
            rollout_start=issued + args.rollout_delay * 3600,
            withdrawn=args.withdraw,
        )
    digest = publish(
        said,
        args.to or facts.channel_repo,
        facts.tag,
        args.key,
        identity=facts.channel_repo,
        run=runner(args),
        ca=args.ca,
    )
    print(f"{args.to or facts.channel_repo}@{digest}: sequence {said['sequence']} announces {said['digest']}")
    return 0


def do_gate(args) -> int:
    """`veilor gate`: pull an image as a machine would, and attach what was shown of it."""
    from veilor.build.attest import attach
    from veilor.build.gate import pass_gate

    run, also = runner(args), {}
    if args.key:
        also["then"] = lambda image: attach(SOURCE_ROOT, args.ref, image, key=args.key, run=run, ca=args.ca)
    attached = pass_gate(
        SOURCE_ROOT, args.ref, run=run, keys_dir=args.keys, ca=args.ca, work=args.work, **also
    )
    print(f"{args.ref}: every machine would take it{attached or ''}")
    return 0


def do_base(args) -> int:
    """`veilor base`: verify the pinned base, or pin what its tag means now."""
    from veilor.build.base_pin import pin_base, pinned_base, verify_base

    if args.action == "pin":
        digest, new = pin_base(SOURCE_ROOT, run=runner(args), provenance=host_run)
        print(f"{digest}: {'pinned now' if new else 'was pinned before'}")
    else:
        print(verify_base(SOURCE_ROOT, pinned_base(SOURCE_ROOT), run=runner(args), provenance=host_run))
    return 0


def do_check(args) -> int:
    """`veilor check`: run every check; each finding with its file and line, each check by name."""
    from veilor.build.check.registry import walk

    wrong = left_out = count = 0
    for result in walk(SOURCE_ROOT, check_runner(args)):
        for line in result.lines(args.release):
            print(line, flush=True)
        count += 1
        wrong += bool(result.wrong(args.release))
        left_out += bool(result.not_run)
    print(f"veilor check: {count} checks, {wrong} failed, {left_out} could not be run")
    return FAILED if wrong else NOT_RUN if left_out else 0


def do_threats(args) -> int:
    """`veilor threats`: run, prove or list the checks of claims."""
    from veilor.build.threats.command import run

    return run(args, SOURCE_ROOT)


def check_runner(args):
    """`runner`, or None where no tools tree can be made: then the checks that need it say so."""
    try:
        return runner(args)
    except Exception as error:
        if explain(error) is None:
            raise
        print(f"veilor check: goes on without the tools tree: {error}", file=sys.stderr)
        return None


def do_rehearse(args) -> int:
    """`veilor rehearse`: one scenario, or all of them, of which the worst verdict counts."""
    from veilor.lab.rehearse import main as rehearse

    if args.scenario != "all":
        return rehearse(args, product_tools())
    if args.start or args.until or args.sabotage or args.prove:
        print(
            "veilor rehearse: --from, --until, --sabotage and --prove belong to one scenario: name it",
            file=sys.stderr,
        )
        return USAGE
    reports, codes = Path(args.report or SOURCE_ROOT / "build/report"), []
    # life first: the others go on from its checkpoints.
    for name in sorted(
        (path.stem for path in (SOURCE_ROOT / "scenarios").glob("[!_]*.py")),
        key=lambda name: (name != "life", name),
    ):
        codes.append(
            rehearse(
                argparse.Namespace(**{**vars(args), "scenario": name, "report": reports / name}),
                product_tools(),
            )
        )
        if codes[-1] == INTERRUPTED:
            return INTERRUPTED
    return next((code for code in (1, 3, 4, 2) if code in codes), 0 if codes else FAILED)


def do_lab_slot(args) -> int:
    """`veilor lab slot`: the slots that are named, or the one of this commit."""
    from veilor.lab import slots
    from veilor.lab.cache import cache_root, hash_tree
    from veilor.lab.rehearse import hash_sources

    every = slots.load_slots(SOURCE_ROOT / "scenarios/slots.toml")
    args.names = [slot.name for slot in every] if args.names == ["all"] else args.names
    counted = ["git", "-C", str(SOURCE_ROOT), "rev-list", "--count", "HEAD"]
    commits = int(host_run(counted, timeout=60).stdout) if not args.names else 0
    chosen = slots.choose(every, args.names, commits)
    inputs = hashlib.sha256(
        (hash_sources(SOURCE_ROOT) + hash_tree(SOURCE_ROOT / "scenarios")).encode()
    ).hexdigest()
    number = itertools.count(1)

    def run(argv: list[str]) -> int:
        """Rehearse with ARGV; its report goes into a folder with the next number."""
        return main(["rehearse", "--report", str(SOURCE_ROOT / f"build/report-slot-{next(number)}"), *argv])

    return slots.run_slots(every, chosen, run, cache_root() / "slots.json", inputs)


def do_pictures(args) -> int:
    """`veilor pictures`: draw the pictures of the documents."""
    from veilor.build.stage import stage
    from veilor.lab.cache import cache_root
    from veilor.lab.tools import ensure_host_programs, ensure_namespaces
    from veilor.pictures.desktop import desktop_tree
    from veilor.pictures.draw import make_pictures

    if args.tree:
        ensure_host_programs()
        ensure_namespaces()
        print(desktop_tree(cache_root()))
        return 0
    with tempfile.TemporaryDirectory(prefix="veilor-pictures-") as scratch:
        for path in make_pictures(stage(SOURCE_ROOT, Path(scratch, "tree")), args.out, args.name):
            print(path)
    return 0


def do_lab_base(args) -> int:
    """`veilor lab base`: write the stand-in base as an OCI layout."""
    from veilor.lab.rehearse import write_base

    return write_base(args.dir, SOURCE_ROOT, args.bootc)


def do_lab_tools(args) -> int:
    """`veilor lab tools`: make the tools tree and print its folder."""
    print(tools().root)
    return 0


def do_lab_clean(args) -> int:
    """`veilor lab clean`: remove the lab's cache."""
    from veilor.lab.cache import cache_root, clean_cache

    if hindrance := clean_cache(cache_root()):
        print(f"veilor lab clean: {hindrance}", file=sys.stderr)
        return FAILED
    print(f"cleaned {cache_root()}")
    return 0


def explain(error: Exception) -> int | None:
    """The exit code for an expected failure, or None for a bug.

    Only an error whose class is in a loaded module can be one of these.
    """
    build, lab = sys.modules.get("veilor.build.errors"), sys.modules.get("veilor.lab.verdict")
    if build and isinstance(error, build.BuildError):
        return FAILED
    if lab and isinstance(error, lab.UsageError):
        return USAGE
    if lab and isinstance(error, lab.Fault):
        return lab.EXIT[error.verdict]
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the command line ARGV; the exit code. An expected failure is one line on standard error."""
    top = parser()
    args = top.parse_args(argv)
    if getattr(args, "renew", None) is False and None in (args.digest, args.image_version, args.sequence):
        top.error("channel: give --digest, --image-version and --sequence, or --renew")
    try:
        return globals()[f"do_{args.command}"](args)
    except KeyboardInterrupt:
        print("veilor: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our answer has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        print(f"veilor: this host refused it ({error})", file=sys.stderr)
        return FAILED
    except Exception as error:
        code = explain(error)
        if code is None:
            raise
        print(f"veilor: {error}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
