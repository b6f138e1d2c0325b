"""`veilor threats`: runs the threat model's image checks, proves them, shows and records what was shown."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.threats import image
from veilor.build.threats.kinds.subject import Subject
from veilor.build.threats.model import LAYERS, Claim, Model, load_model
from veilor.build.threats.results import RESULTS, Result, cell, load_results, record
from veilor.build.threats.results_page import PAGE, write_results_page

FAILED = 1


def run(args: Namespace, source_root: Path) -> int:
    """List, prove, show or record what the threat model claims; the exit code."""
    model = load_model(source_root)
    if args.record is not None:
        return take_in(source_root, model, args.record)
    if args.matrix:
        return show_matrix(source_root, model)
    if args.list:
        for one in model.claims:
            print(f"{one.id:32} {one.state:9} {one.says}")
        return 0
    if args.mutate and args.tree:
        raise BuildError(
            "a built image's files are looked at, not spoilt; leave out --tree to prove the checks"
        )
    with image.subject(source_root, args.tree) as subject:
        if args.mutate:
            return prove(model, subject)
        found = image.image_problems(model, subject, built=bool(args.tree))
    for name, wrong in found.items():
        print(f"{'FAIL' if wrong else 'PASS':8} {name}" + (f": {wrong}" if wrong else ""))
    left = [check.id for one in model.claims for check in one.image if check.built and not args.tree]
    for name in left:
        print(f"NOT_RUN  {name}: it needs the files of a built image, --tree DIR")
    return FAILED if any(found.values()) else 0


def show_matrix(source_root: Path, model: Model) -> int:
    """Print claim by layer: what is shown, stale, or not run on the sources as they are."""
    results, machine = load_results(source_root), []
    for one in model.claims:
        row = matrix_row(source_root, model, results, one)
        machine += [said for said in row[1:] if said]
        cells = zip(LAYERS, row, strict=True)
        print(f"{one.id:32} " + " · ".join(f"{layer}: {said or 'no check'}" for layer, said in cells))
    shown, wrong, proved = count(machine)
    print(
        f"Of {len(machine)} cells that need a machine {shown} are shown, {proved} of them with a negative "
        f"control, {wrong} are wrong, and the rest is stale or was not run, or not wholly"
    )
    return 0


def count(cells: list[str]) -> tuple[int, int, int]:
    """Of the matrix's CELLS that need a machine: how many are shown, wrong, and seen to fail. What is stale
    is none of these.
    """
    shown = sum("PASS" in cell and "NOT_RUN" not in cell and "FAULT" not in cell for cell in cells)
    wrong = sum(bool(re.search(r"(?<!stale: )(OS|LAB)_FAULT", cell)) for cell in cells)
    return shown, wrong, sum("negative control" in cell and "no negative" not in cell for cell in cells)


def take_in(source_root: Path, model: Model, report: Path) -> int:
    """Record what REPORT shows, and write the page of results; with an empty path, the page alone."""
    if report != Path():
        for one in record(source_root, model, report):
            gone = f", seen to fail by {one.fails.by}: {one.fails.verdict}" if one.fails else ""
            print(f"{one.verdict or 'NOT_RUN':9} {one.claim} ({one.layer}, {one.run}){gone}")
        print(f"{RESULTS}: written")
    write_results_page(source_root)
    print(f"{PAGE}: written")
    return 0


def prove(model: Model, subject: Subject) -> int:
    """Remove or weaken each control of SUBJECT in a copy, and say which was not noticed; the exit code."""
    tried, blind = image.mutate(model, subject)
    for one in blind:
        print(f"BLIND  {one}: no check notices")
    print(f"{len(tried)} controls were removed or weakened, {len(tried) - len(blind)} of them noticed")
    return FAILED if blind else 0


def matrix_row(source_root: Path, model: Model, results: list[Result], claim: Claim) -> list[str]:
    """The four cells of CLAIM: image, boot, attack, usability."""
    return [image_cell(claim), *(cell(source_root, model, results, claim, layer) for layer in LAYERS[1:])]


def image_cell(claim: Claim) -> str:
    """What stands in the matrix for CLAIM's checks of the image: empty where it has none."""
    if not claim.image:
        return ""
    if all(check.built for check in claim.image):
        return "NOT_RUN (needs a built image)"
    return "every `make test`"
