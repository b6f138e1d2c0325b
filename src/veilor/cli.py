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

SOURCE_ROOT = Path(__file__).resolve().parents[2]
FAILED, USAGE, NOT_RUN, INTERRUPTED = 1, 2, 4, 130

EXIT_CODES = """exit codes:
  0    done; of a rehearsal: PASS, and nothing else is 0
  1    it failed, and one line on standard error says why and what to do; of a rehearsal: OS_FAULT, the product is wrong
  2    the command line is wrong, or names something that doesn't exist
  3    LAB_FAULT: the rehearsal itself went wrong and says nothing of the product
  4    NOT_RUN: this machine cannot do it, with what is missing
  130  interrupted
"""  # noqa: E501
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
    """What makes the product, for the lab, which doesn't import it: `source_root` and functions, see their
    docstrings.
    """
    found = {
        name: judged(getattr(importlib.import_module(f"veilor.build.{module}"), name))
        for name, module in BUILD_FUNCTIONS.items()
    }
    return SimpleNamespace(source_root=SOURCE_ROOT, **found)


def judged(function):
    """FUNCTION with the verdict that a BuildError means in a rehearsal: sources that can't be built are the
    product's fault.
    """
    from veilor.build.errors import BuildError, HostError
    from veilor.lab.verdict import LabFault, OSFault

    @functools.wraps(function)
    def call(*arguments, **options):
        try:
            return function(*arguments, **options)
        except HostError as error:
            raise LabFault(str(error)) from None
        except BuildError as error:
            raise OSFault(f"the product cannot be built: {error}") from None

    return call


def host_run(argv, *, binds=(), env=None, timeout, stdin=None, check=True):
    """Run ARGV with the host's own programs: called and answering as the tools tree's `run`, BINDS being
    needless.
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
    from veilor.build.facts import fact

    print(fact(SOURCE_ROOT, args.fact))
    return 0


def do_stage(args) -> int:
    from veilor.build.stage import stage

    print(stage(SOURCE_ROOT, args.dir, args.keys, args.sequence_floor))
    return 0


def do_iso(args) -> int:
    from veilor.build.iso import build_iso
    from veilor.build.readiness import refuse_placeholders

    if not args.mutable:  # which has no key of ours on it
        refuse_placeholders(SOURCE_ROOT)
    kickstart = SOURCE_ROOT / ("kickstart/veilor-os.ks" if args.mutable else "kickstart/install.ks")
    print(build_iso(args.medium, args.layout, kickstart, args.out, run=runner(args)))
    return 0


def do_sign(args) -> int:
    from veilor.build.readiness import refuse_placeholders
    from veilor.build.sign import sign_image

    refuse_placeholders(SOURCE_ROOT)
    identity = args.identity or args.ref.split("@")[0]
    new = sign_image(args.ref, args.key, identity=identity, run=runner(args), ca=args.ca)
    print(f"{args.ref}: {'signed' if new else 'was signed by this key before'} as {identity}")
    return 0


def do_channel(args) -> int:
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
    from veilor.build.base_pin import pin_base, pinned_base, verify_base

    if args.action == "pin":
        digest, new = pin_base(SOURCE_ROOT, run=runner(args), provenance=host_run)
        print(f"{digest}: {'pinned now' if new else 'was pinned before'}")
    else:
        print(verify_base(SOURCE_ROOT, pinned_base(SOURCE_ROOT), run=runner(args), provenance=host_run))
    return 0


def do_check(args) -> int:
    """Everything that can be known without a boot: each finding with its file
    and line, each check by name.
    """
    from veilor.build.check.registry import walk

    wrong = left_out = False
    for result in walk(SOURCE_ROOT, check_runner(args)):
        for line in result.lines(args.release):
            print(line, flush=True)
        wrong |= bool(result.wrong(args.release))
        left_out |= bool(result.not_run)
    return FAILED if wrong else NOT_RUN if left_out else 0


def do_threats(args) -> int:
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
        return main(["rehearse", "--report", str(SOURCE_ROOT / f"build/report-slot-{next(number)}"), *argv])

    return slots.run_slots(every, chosen, run, cache_root() / "slots.json", inputs)


def do_pictures(args) -> int:
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
    from veilor.lab.rehearse import write_base

    return write_base(args.dir, SOURCE_ROOT, args.bootc)


def do_lab_tools(args) -> int:
    print(tools().root)
    return 0


def do_lab_clean(args) -> int:
    from veilor.lab.cache import cache_root, clean_cache

    if hindrance := clean_cache(cache_root()):
        print(f"veilor lab clean: {hindrance}", file=sys.stderr)
        return FAILED
    print(f"cleaned {cache_root()}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from veilor.build.facts import NAMES

    top = argparse.ArgumentParser(
        prog="veilor",
        description="Build, sign and rehearse veilor-os.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(
        group, name: str, handler, text: str, *, tools: bool = False, registry: bool = False
    ) -> argparse.ArgumentParser:
        made = group.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXIT_CODES,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(handler=handler)
        if tools or registry:
            made.add_argument(
                "--host-tools",
                action="store_true",
                help="use this host's programs, not those of the cached tools tree",
            )
        if registry:
            made.add_argument(
                "--key",
                type=Path,
                required=True,
                help="private key; its password is taken from $COSIGN_PASSWORD",
            )
            made.add_argument("--ca", type=Path, help="trust this authority (PEM) instead of the system's")
        return made

    one = verb(
        verbs, "product", do_product, "print one fact of product.toml, as the scripts of a release ask for it"
    )
    one.add_argument("fact", choices=NAMES, metavar="FACT", help=", ".join(NAMES))

    one = verb(verbs, "stage", do_stage, "write the file tree that is stamped on the base image")
    one.add_argument(
        "dir", type=Path, metavar="DIR", help="new, empty, or an older staged tree, which is replaced"
    )
    one.add_argument(
        "--keys",
        type=Path,
        metavar="DIR",
        help="take the four public keys from here (default: bluebuild/keys)",
    )
    one.add_argument(
        "--sequence-floor",
        type=int,
        default=0,
        metavar="N",
        help="lowest statement that a new machine accepts",
    )

    one = verb(verbs, "iso", do_iso, "put kickstart and image into a boot medium", tools=True)
    one.add_argument(
        "--medium", type=Path, required=True, metavar="ISO", help="boot medium, such as Fedora's netinst"
    )
    what = one.add_mutually_exclusive_group(required=True)
    what.add_argument("--layout", type=Path, metavar="DIR", help="OCI layout with the image to install")
    what.add_argument(
        "--mutable",
        action="store_true",
        help="the mutable fallback instead, which has no image; until version 1.0",
    )
    one.add_argument(
        "--out", type=Path, required=True, metavar="ISO", help="the ISO to write; SHA256SUMS lands beside it"
    )

    one = verb(verbs, "sign", do_sign, "sign an image by digest", registry=True)
    one.add_argument("ref", metavar="REPOSITORY@sha256:…")
    one.add_argument(
        "--identity", metavar="REPOSITORY", help="the name machines know it by (default: the one signed)"
    )

    one = verb(
        verbs,
        "channel",
        do_channel,
        "announce an image: write, push and sign the channel statement",
        registry=True,
    )
    one.add_argument(
        "--renew",
        action="store_true",
        help="announce the same again, one sequence higher; needs none of the next three",
    )
    one.add_argument("--digest", metavar="sha256:…")
    one.add_argument("--image-version", metavar="VERSION")
    one.add_argument("--sequence", type=int, metavar="N", help="higher than every one before")
    one.add_argument("--days", type=int, default=14, help="until machines warn that it is stale")
    one.add_argument("--issued", type=int, metavar="SECONDS", help="since 1970 (default: now)")
    one.add_argument("--rollout-hours", type=int, default=0, metavar="N", help="spread machines over N hours")
    one.add_argument(
        "--rollout-delay",
        type=int,
        default=0,
        metavar="N",
        help="begin that N hours later; 20: when all have heard of it",
    )
    one.add_argument(
        "--withdraw",
        action="append",
        metavar="sha256:…",
        help="an image that must not be started any more; may be repeated",
    )
    one.add_argument("--to", metavar="REPOSITORY", help="push here instead of product.toml's channel")

    one = verb(
        verbs,
        "gate",
        do_gate,
        "would a machine that trusts exactly the shipped policy take this image?",
        tools=True,
    )
    one.add_argument("ref", metavar="REPOSITORY@sha256:…")
    one.add_argument(
        "--keys", type=Path, metavar="DIR", help="the four public keys (default: bluebuild/keys)"
    )
    one.add_argument("--ca", type=Path, help="trust this authority (PEM) instead of the system's")
    one.add_argument(
        "--work", type=Path, metavar="DIR", help="where the image lies meanwhile (default: $TMPDIR)"
    )
    one.add_argument(
        "--key", type=Path, help="attach what was shown of the image's claims, signed by this private key"
    )

    one = verb(verbs, "base", do_base, "the base image that releases stand on, by digest", tools=True)
    one.add_argument(
        "action",
        choices=("verify", "pin"),
        help="verify the pinned one and print it, or pin what the tag means now",
    )

    one = verb(verbs, "check", do_check, "everything that can be known without a boot", tools=True)
    one.add_argument(
        "--release",
        action="store_true",
        help="refuse as well what is known to be unfinished, as a release has to",
    )

    one = verb(
        verbs,
        "threats",
        do_threats,
        "run the threat model's image checks, prove them, or show what was shown",
    )
    what = one.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="name the claims")
    what.add_argument(
        "--mutate", action="store_true", help="remove each control in a copy: the check has to fail"
    )
    what.add_argument(
        "--matrix",
        action="store_true",
        help="claim by layer, from the recorded results: what is shown or stale now",
    )
    what.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="REPORT",
        help="take in what a rehearsal's report.json shows, and write docs/THREAT-RESULTS.md; without REPORT "
        "the page alone",
    )
    one.add_argument(
        "--tree",
        type=Path,
        metavar="DIR",
        help="look at the files of a built image instead of the staged tree",
    )

    one = verb(verbs, "rehearse", do_rehearse, "live a machine's whole life in QEMU and report on it")
    one.add_argument(
        "scenario", nargs="?", default="life", metavar="SCENARIO", help="life by default; all: every one"
    )
    one.add_argument(
        "--from", dest="start", metavar="PHASE", help="begin at PHASE, from the checkpoint before it"
    )
    one.add_argument("--until", metavar="PHASE", help="end after PHASE")
    one.add_argument(
        "--sabotage", metavar="NAME|list", help="break something on purpose, to see the rehearsal notice"
    )
    one.add_argument(
        "--prove", action="store_true", help="with --sabotage: exit 0 when it was noticed in the right place"
    )
    one.add_argument("--base", metavar="REF", help="oci:DIR or docker://REF instead of the stand-in base")
    one.add_argument("--medium", metavar="FILE", help="a real Fedora ISO instead of the stand-in live medium")
    one.add_argument("--bios", action="store_true", help="BIOS firmware instead of UEFI")
    one.add_argument("--keep", action="store_true", help="leave the machine's disk and files for a look")
    one.add_argument("--report", metavar="DIR", help="default: build/report")

    one = verb(
        verbs,
        "pictures",
        do_pictures,
        "draw the pictures in docs/ by the real programs: Plymouth, SDDM, Plasma",
    )
    one.add_argument("name", nargs="*", metavar="NAME", help="just these (default: all)")
    one.add_argument(
        "--tree",
        action="store_true",
        help="only make the tree of programs that draws them, and say where it is",
    )
    one.add_argument(
        "--out",
        type=Path,
        default=SOURCE_ROOT / "docs/pictures",
        metavar="DIR",
        help="default: docs/pictures",
    )

    lab = verbs.add_parser("lab", help="what the rehearsal stands on").add_subparsers(
        required=True, metavar="VERB"
    )
    one = verb(lab, "base", do_lab_base, "write the stand-in base as an OCI layout")
    one.add_argument("dir", type=Path, metavar="DIR")
    one.add_argument(
        "--bootc",
        type=Path,
        metavar="PROGRAM",
        help="the real bootc, compiled on Debian 13, in the place of the front",
    )
    one = verb(lab, "slot", do_lab_slot, "rehearse a slot; slots rotate, one per commit")
    one.add_argument(
        "names",
        nargs="*",
        metavar="SLOT",
        help="from scenarios/slots.toml, or all; the commit's own without a name",
    )
    verb(lab, "tools", do_lab_tools, "make the cached tree of tools, which some tests need as well")
    verb(lab, "clean", do_lab_clean, "remove everything the lab has cached")
    return top


def explain(error: Exception) -> int | None:
    """The exit code for an expected failure, or None for a bug. Only classes of modules that are loaded can
    be meant.
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
        return args.handler(args)
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
