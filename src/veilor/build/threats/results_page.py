"""docs/THREAT-RESULTS.md: what rehearsals showed of the threat model, as of the last record.

The page is made of threats/results.json alone, so that it changes when something is recorded, and at no other
time. What has become stale since is for `veilor threats --matrix` and `veilor check` to say.
"""

from __future__ import annotations

from pathlib import Path

from veilor.build.threats.page import row, table
from veilor.build.threats.results import RESULTS, Result, load_results

PAGE = "docs/THREAT-RESULTS.md"
REFRESH = "veilor threats --record"
HEAD = """# What was shown, and on what

<!-- Written from {results} by `{refresh}`. -->

The [threat model](THREAT-MODEL.md) says what is promised; this page says what rehearsals showed of it on machines, as of the
last record, {last}. Editing a file changes nothing here. A result is stale, and counts as not shown, as soon as a control, a
check or a phase that it rests on has changed: `veilor threats --matrix` says for every claim what is shown and what is stale now.

Of {total} results {passed} are a PASS, {wrong} are wrong, and the rest was not run, or not wholly. In {proved} the negative control
passed too, on the same sources: the check was seen to fail with its control removed, which is what makes a PASS worth something.
Checks of the image are not here: every `make test` makes them, on the tree that is stamped on the base, and shows that they fail
when their control is removed.

`stand-in` is a rehearsal in which the base, its kernel and SELinux are [stand-ins](VERIFIED.md): it shows that our files do what
is said, not that the released image does. NOT_RUN means that nobody has seen it yet. The proof is the beginning of a hash of
what the result rests on.

What shows the rest, on a machine with KVM and a network: {commands}, then `{refresh} REPORT` with the report.json
of each ([how](REHEARSE.md)).
"""  # noqa: E501


def results_page(source_root: Path) -> str:
    """The text of docs/THREAT-RESULTS.md. Raises BuildError when threats/results.json cannot be used."""
    results = load_results(source_root)
    scenarios = sorted({one.run.split(":")[0] for one in results})
    head = HEAD.format(
        results=RESULTS,
        refresh=REFRESH,
        last=max((one.when for one in results), default="") or "which there is none of yet",
        total=len(results),
        passed=sum(one.verdict == "PASS" for one in results),
        wrong=sum(one.verdict.endswith("_FAULT") for one in results),
        proved=sum(one.verdict == "PASS" and one.proved for one in results),
        commands=", ".join(f"`veilor rehearse {name} --base IMAGE`" for name in scenarios)
        or "`veilor rehearse all --base IMAGE`",
    )
    titles = ("claim", "layer", "phase", "shown", "negative control", "on", "day", "proof")
    return "".join([head, table(*titles), *map(result_row, results), *not_run_table(results)])


def result_row(one: Result) -> str:
    """The row of ONE result."""
    return row(
        f"`{one.claim}`",
        one.layer,
        f"`{one.run}`",
        verdict_cell(one),
        negative_control_cell(one),
        "stand-in" if "base-system" in one.stand_ins else one.base,
        one.when,
        f"`{one.proof[:12]}`" if one.proof else "",
    )


def verdict_cell(one: Result) -> str:
    """What ONE result shows."""
    passed, total = one.passed
    if one.verdict == "NOT_RUN" and passed:
        return f"NOT_RUN in part: {passed} of {total} PASS"
    return one.verdict or "NOT_RUN"


def negative_control_cell(one: Result) -> str:
    """What was seen of ONE result's check with its control removed."""
    if one.fails is None:
        return "not seen"
    if one.fails.verdict != "PASS":
        return f"{one.fails.verdict} by {one.fails.by}"
    if not one.proved:
        return f"PASS by {one.fails.by} on {one.fails.when}, with other sources"
    return f"PASS by {one.fails.by}"


def not_run_table(results: list[Result]) -> list[str]:
    """Each check that a recorded run could not make, with its reason."""
    rows = [
        row(f"`{one.claim}`", one.layer, title, reason) for one in results for title, reason in one.not_run
    ]
    if not rows:
        return []
    head = (
        "\n## What those runs could not look at\n\nEach stands as NOT_RUN above, whatever else of its "
        "claim was shown.\n"
    )
    return [head, table("claim", "layer", "what", "why not"), *dict.fromkeys(rows)]


def write_results_page(source_root: Path) -> None:
    """Write docs/THREAT-RESULTS.md anew."""
    (source_root / PAGE).write_text(results_page(source_root))
