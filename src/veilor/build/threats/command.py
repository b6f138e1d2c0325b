"""`veilor threats`: runs the threat model's image checks, proves them, shows and records what was shown."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.threats import page, proof
from veilor.build.threats import results as recorded
from veilor.build.threats.model import LAYERS, load_model

FAILED = 1


def run(args: Namespace, source_root: Path) -> int:
    """List, prove, show or record what the threat model claims; the exit code."""
    model = load_model(source_root)
    if args.record:
        for one in recorded.record(source_root, model, args.record):
            gone = one.get("fails", {})
            print(
                f"{one.get('verdict', 'NOT_RUN'):9} {one['claim']} ({one['layer']}, {one['run']})"
                + (f", seen to fail by {gone['by']}: {gone['verdict']}" if gone else "")
            )
        print(f"{recorded.RESULTS}: written; `make docs` puts it into {page.PAGE}")
        return 0
    if args.matrix:
        results = recorded.load_results(source_root)
        for one in model.claims:
            cells = zip(LAYERS, page.matrix_row(source_root, model, results, one), strict=True)
            print(f"{one.id:32} " + " · ".join(f"{layer}: {cell or 'no check'}" for layer, cell in cells))
        return 0
    if args.list:
        for one in model.claims:
            print(f"{one.id:32} {one.state:9} {one.says}")
        return 0
    with proof.subject(source_root, args.tree) as subject:
        if args.mutate and args.tree:
            raise BuildError(
                "a built image's files are looked at, not spoilt; leave out --tree to prove the checks"
            )
        if args.mutate:
            tried, blind = proof.mutate(model, subject)
            print("".join(f"BLIND  {one}: no check notices\n" for one in blind), end="")
            print(
                f"{len(tried)} controls were taken away or weakened, {len(tried) - len(blind)} of them "
                "noticed"
            )
            return FAILED if blind else 0
        found = proof.image_problems(model, subject, built=bool(args.tree))
    for name, wrong in found.items():
        print(f"{'FAIL' if wrong else 'PASS':8} {name}" + (f": {wrong}" if wrong else ""))
    left = [check.id for one in model.claims for check in one.image if check.built and not args.tree]
    print(
        "".join(f"NOT_RUN  {name}: it needs the files of a built image, --tree DIR\n" for name in left),
        end="",
    )
    return FAILED if any(found.values()) else 0
