"""docs/THREAT-MODEL.md: one page for a person with ten minutes and doubts, then the tables."""

from __future__ import annotations

import re
from pathlib import Path

from veilor.build.threats import results as recorded
from veilor.build.threats.model import Adversary, Claim, Model, load_model
from veilor.core.product import load as load_product

PAGE = "docs/THREAT-MODEL.md"
HEAD = """# What veilor-os protects, from whom, and how you can tell

<!-- Generated from threats/ by `make docs`. -->

veilor-os is for one person's laptop: the only one, with a life on it. This page says against whom it stands, what it
promises, and where it ends. Read it with doubt. Each promise has a name, such as `laptop.encrypted`; `veilor-doctor --claim NAME`
looks on your machine whether it holds. The tables after the costs say what is known to get past each promise, what was tried
and on what, and what nobody has seen yet; the last one compares.

Three words carry weight below. **Promised** is on in every installation, and has a check of the image, one on the running
machine, and somebody who tries to break it. **Your choice** is there, and off until you turn it on. **Not kept** is what you
might expect and we don't promise: read these first.

No release was made yet, and nothing was shown on real hardware, nor on the base itself but on a stand-in. So our settings and
programs do what is said of them; that a released image does, `veilor-status --claims` will say on your machine.

"""  # noqa: E501
TITLES = {
    "enforced": "Promised",
    "opt-in": "Your choice",
    "residual": "Not kept",
    "out-of-scope": "Not meant",
}


def flat(text: str) -> str:
    return " ".join(text.split())


def row(*cells: str) -> str:
    return "| " + " | ".join(flat(cell).replace("|", "\\|") or "–" for cell in cells) + " |\n"


def table(*titles: str) -> str:
    return "\n" + row(*titles) + "|" + "---|" * len(titles) + "\n"


def page(source_root: Path) -> str:
    """The text of docs/THREAT-MODEL.md. Raises BuildError when threats/ cannot be used."""
    model = load_model(source_root)
    inside = [one for one in model.adversaries if one.scope == "in"]
    outside = [one for one in model.adversaries if one.scope == "out"]
    return "".join(
        [
            HEAD,
            "## Against whom\n\n",
            *(section(number, one) for number, one in enumerate(inside, 1)),
            *not_against(outside),
            *costs(model),
            *claims_table(model),
            *matrix(source_root, model),
            "\n",
            *compared(model),
        ]
    )


def section(number: int, one: Adversary) -> str:
    """What is promised against one adversary, in a person's words."""
    said = [f"### {number}. {one.title}\n\n{flat(one.story)}\n\n"]
    for state in TITLES:
        said += [
            f"- **{TITLES[state]}.** {flat(claim.says)} "
            + (f"{flat(claim.how)} " if claim.how else "")
            + (f"{flat(claim.bypass)} " if claim.bypass and state == "residual" else "")
            + f"(`{claim.id}`)\n"
            for claim in one.claims
            if claim.state == state
        ]
    return "".join(said) + "\n"


def not_against(outside: list[Adversary]) -> list[str]:
    head = (
        "## Against whom not, and what serves better\n\nWhoever fears these should take the other tool, "
        "or take it as well.\n"
    )
    return [
        head,
        table("who or what", "why not here", "take instead", "because"),
        *(row(one.title, one.story, one.tool, one.because) for one in outside),
        "\n",
    ]


def costs(model: Model) -> list[str]:
    return [
        "## What it costs you\n\n",
        *(f"- **{flat(cost['title'])}.** {flat(cost['text'])}\n" for cost in model.costs),
        "\n",
    ]


def compared(model: Model) -> list[str]:
    """The comparison: a table without sources, and the source and date of each cell below it."""
    systems, sources, said = [*model.compared["systems"], *model.compared["tools"]], [], []
    for axis in model.compared["axis"]:
        cells = []
        for system in systems:
            if system not in axis["cells"]:
                cells.append("" if system in model.compared["tools"] else "not looked up")
                continue
            text, *source = axis["cells"][system]
            sources += [source] if source not in sources else []
            cells.append(f"{text} [{sources.index(source) + 1}]")
        said.append(row(f"**{axis['title']}**", axis["best"], *cells))
    head = (
        "## Beside others\n\nWhat is better elsewhere stands here as plainly as what is better here. The "
        "number behind a cell "
        "names its source and when that was current; it may have changed since. “Not looked up” is no "
        "verdict. Tails and Qubes OS "
        "stand where they are the better tool.\n"
    )
    return [
        head,
        table("on what", "best served by", *systems),
        *said,
        "\nSources:\n\n",
        *(f"{number}. {source}, {when.isoformat()}\n" for number, (source, when) in enumerate(sources, 1)),
    ]


def claims_table(model: Model) -> list[str]:
    head = (
        "## Every claim\n\nControls are files of this repository, or `base:` for a setting of the base that "
        "threats/base.toml names.\n"
    )
    rows = [
        row(
            f"`{one.id}`",
            one.state,
            one.says,
            one.asset,
            ", ".join(f"`{control}`" for control in one.controls),
            one.bypass,
            one.cost,
            one.date.isoformat(),
        )
        for one in model.claims
    ]
    return [
        head,
        table(
            "claim", "state", "what is said", "of what", "controls", "known bypass", "cost", "thought through"
        ),
        *rows,
        "\n",
    ]


def matrix(source_root: Path, model: Model) -> list[str]:
    """Claim × layer from the recorded results; what was not shown is there to be seen, with the command that
    shows it.
    """
    results = recorded.load_results(source_root)
    machine_shows = [one for one in model.claims if any(map(one.layer, ("image", "boot", "attack")))]
    cells = [(one, matrix_row(source_root, model, results, one)) for one in machine_shows]
    names = sorted({run.split(":")[0] for one in model.claims for _, run, _ in recorded.runs(one)})
    base = load_product(source_root / "product.toml").base_ref
    commands = ", ".join(f"`veilor rehearse {name} --base docker://{base}`" for name in names)
    needs = [cell for _, line in cells for cell in line[1:] if cell]
    shown, wrong, proved = count(needs)
    head = (
        "## What was shown, and on what\n\nAn image check is made by every `make test`, on the tree that is "
        "stamped on the base, and "
        "is shown there to fail when its control is taken away. The other layers need a machine. Of their "
        f"{len(needs)} cells {shown} are shown, {wrong} are wrong, and the rest was not run, or not wholly; "
        f"in {proved} the check was "
        "also seen to fail once its control was taken away (“fails without”), which is what makes a PASS "
        "worth something.\n\n"
        "`stand-in` is a rehearsal in which the base, its kernel and SELinux are stand-ins "
        "(docs/VERIFIED.md): it shows that our "
        "files do what is said, not that the released image does. NOT_RUN means that nobody has seen it "
        "yet, on these very controls "
        "and checks; `stale`, that one of them has changed since. An empty cell has no check there.\n\n"
        f"What shows the rest, on a machine with KVM and a network: {commands}, "
        "then `veilor threats --record REPORT`.\n"
    )
    return [
        head,
        table("claim", "image", "boot", "attack", "usability"),
        *(row(f"`{one.id}`", *line) for one, line in cells),
        *not_run(source_root, model, results),
    ]


def count(cells: list[str]) -> tuple[int, int, int]:
    """Of the matrix's CELLS that need a machine: how many are shown, wrong, and seen to fail. What is stale
    is none of these.
    """
    shown = sum("PASS" in cell and "NOT_RUN" not in cell and "FAULT" not in cell for cell in cells)
    wrong = sum(bool(re.search(r"(?<!stale: )(OS|LAB)_FAULT", cell)) for cell in cells)
    return shown, wrong, sum("fails without" in cell and "not yet" not in cell for cell in cells)


def not_run(source_root: Path, model: Model, results: list[dict]) -> list[str]:
    """Each check that a recorded run could not make, with its reason."""
    rows = [
        row(f"`{one['claim']}`", one["layer"], title, reason)
        for one in results
        if "verdict" in one and recorded.fresh(source_root, model, one)
        for title, reason in one["not_run"]
    ]
    head = (
        "\n### What those runs could not look at\n\nEach stands as NOT_RUN above, whatever else of its "
        "claim was shown.\n"
    )
    return [head, table("claim", "layer", "what", "why not"), *dict.fromkeys(rows)] if rows else []


def matrix_row(source_root: Path, model: Model, results: list[dict], claim: Claim) -> list[str]:
    """The four cells of CLAIM: image, boot, attack, usability."""
    built = [check for check in claim.image if check.built]
    image = (
        ""
        if not claim.image
        else "NOT_RUN (needs a built image)"
        if len(built) == len(claim.image)
        else "every `make test`"
    )
    return [
        image,
        *(
            recorded.cell(source_root, model, results, claim, layer)
            for layer in ("boot", "attack", "usability")
        ),
    ]
