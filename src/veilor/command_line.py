"""The command line of `veilor`: its sub-commands, what they take, and their exit codes.

What the sub-command with the name COMMAND does is in cli.py, in do_COMMAND.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from veilor.build.facts import NAMES

SOURCE_ROOT = Path(__file__).resolve().parents[2]
EXIT_CODES = """exit codes:
  0    done; of a rehearsal: PASS, and nothing else is 0
  1    it failed, and one line on standard error says why and what to do; of a rehearsal: OS_FAULT, the product is wrong
  2    the command line is wrong, or names something that doesn't exist
  3    LAB_FAULT: the rehearsal itself went wrong and says nothing of the product
  4    NOT_RUN: this machine cannot do it, with what is missing
  130  interrupted
"""  # noqa: E501


def parse_floor(text: str) -> int | str:
    """TEXT of --sequence-floor: a number, or "channel". Raises ValueError."""
    return text if text == "channel" else int(text)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="veilor",
        description="Build, sign and rehearse veilor-os.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(
        group, name: str, command: str, text: str, *, tools: bool = False, registry: bool = False
    ) -> argparse.ArgumentParser:
        """Add the sub-command NAME, which cli.py carries out by do_COMMAND, to GROUP; its parser.

        With TOOLS it can use the host's programs. With REGISTRY it can too, and takes a key and a
        certificate authority.
        """
        made = group.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXIT_CODES,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(command=command)
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
        verbs, "product", "product", "print one fact of product.toml, as the scripts of a release ask for it"
    )
    one.add_argument("fact", choices=NAMES, metavar="FACT", help=", ".join(NAMES))

    one = verb(verbs, "stage", "stage", "write the file tree that is stamped on the base image", tools=True)
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
        type=parse_floor,
        default=0,
        metavar="N",
        help="lowest statement that a new machine accepts, or `channel`: the one that is announced now",
    )

    one = verb(verbs, "iso", "iso", "put kickstart and image into a boot medium", tools=True)
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

    one = verb(verbs, "sign", "sign", "sign an image by digest", registry=True)
    one.add_argument("ref", metavar="REPOSITORY@sha256:…")
    one.add_argument(
        "--identity", metavar="REPOSITORY", help="the name machines know it by (default: the one signed)"
    )

    one = verb(
        verbs,
        "channel",
        "channel",
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
    one.add_argument(
        "--epoch",
        type=int,
        metavar="N",
        help="begin a new one, in which sequences count anew: after a theft, with the second key "
        "(default: product.toml's)",
    )
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
        "gate",
        "check that a machine which trusts exactly the shipped policy takes this image",
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

    one = verb(verbs, "base", "base", "the base image that releases stand on, by digest", tools=True)
    one.add_argument(
        "action",
        choices=("verify", "pin"),
        help="verify the pinned one and print it, or pin what the tag means now",
    )

    one = verb(verbs, "check", "check", "everything that can be known without a boot", tools=True)
    one.add_argument(
        "--release",
        action="store_true",
        help="refuse as well what is known to be unfinished, as a release has to",
    )

    one = verb(
        verbs,
        "threats",
        "threats",
        "run the threat model's image checks, prove that they can fail, or list what was shown",
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
        help="check the files of a built image instead of the staged tree",
    )

    one = verb(verbs, "rehearse", "rehearse", "rehearse a machine's whole life in QEMU and report on it")
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
    one.add_argument("--keep", action="store_true", help="keep the machine's disk and files")
    one.add_argument("--report", metavar="DIR", help="default: build/report")

    one = verb(
        verbs,
        "pictures",
        "pictures",
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

    lab = verbs.add_parser("lab", help="the parts that a rehearsal is made of").add_subparsers(
        required=True, metavar="VERB"
    )
    one = verb(lab, "base", "lab_base", "write the stand-in base as an OCI layout")
    one.add_argument("dir", type=Path, metavar="DIR")
    one.add_argument(
        "--bootc",
        type=Path,
        metavar="PROGRAM",
        help="the real bootc, compiled on Debian 13, in the place of the front",
    )
    one = verb(lab, "slot", "lab_slot", "rehearse a slot; slots rotate, one per commit")
    one.add_argument(
        "names",
        nargs="*",
        metavar="SLOT",
        help="from scenarios/slots.toml, or all; the commit's own without a name",
    )
    verb(lab, "tools", "lab_tools", "make the cached tree of tools, which some tests need as well")
    verb(lab, "clean", "lab_clean", "remove everything the lab has cached")
    return top
