"""docs/THREAT-MODEL.md: one page for a person with ten minutes and doubts, then the tables."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from veilor.build.threats.controls import parse_control
from veilor.build.threats.model import LAYERS, Adversary, Claim, Comparison, Model, load_model

PAGE = "docs/THREAT-MODEL.md"
A_YEAR = timedelta(days=365)
HEAD = """# What veilor-os protects, from whom, and how you can tell

<!-- Generated from threats/ by `make docs`. -->

veilor-os is for one person's laptop: the only one, with a life on it. This page says against whom it stands, what it
promises, and where it ends. Read it with doubt. Each promise has a name, such as `laptop.encrypted`; `veilor-doctor --claim NAME`
looks on your machine whether it holds. The tables after the costs say what is known to get past each promise and what checks
it; the last one compares. What rehearsals have shown of it, on what, and what nobody has seen yet, stands on a page of its own:
[what was shown, and on what](THREAT-RESULTS.md).

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
    """TEXT in one line."""
    return " ".join(text.split())


def row(*cells: str) -> str:
    """A row of a table; an empty cell is a dash."""
    return "| " + " | ".join(flat(cell).replace("|", "\\|") or "–" for cell in cells) + " |\n"


def table(*titles: str) -> str:
    """The head of a table."""
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
            *comparison(model.compared),
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
    """The adversaries out of scope, each with the tool that serves better."""
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
    """What the protection costs a person."""
    return [
        "## What it costs you\n\n",
        *(f"- **{flat(cost.title)}.** {flat(cost.text)}\n" for cost in model.costs),
        "\n",
    ]


def comparison(compared: Comparison) -> list[str]:
    """The comparison: a table without sources, and the source and date of each cell below it."""
    systems = [*compared.systems, *compared.tools]
    sources: list[tuple[str, date]] = []
    rows = []
    newest = max(cell.when for axis in compared.axes for cell in axis.cells.values())
    for axis in compared.axes:
        cells = []
        for system in systems:
            cell = axis.cells.get(system)
            if cell is None:
                cells.append("" if system in compared.tools else "not looked up")
                continue
            source = (cell.source, cell.when)
            if source not in sources:
                sources.append(source)
            old = f" (as of {cell.when.year})" if newest - cell.when > A_YEAR else ""
            cells.append(f"{cell.text}{old} [{sources.index(source) + 1}]")
        rows.append(row(f"**{axis.title}**", axis.best, *cells))
    head = (
        "## Beside others\n\nWhat is better elsewhere stands here as plainly as what is better here. The "
        "number behind a cell "
        "names its source and when that was current; it may have changed since, and where that is more than "
        "a year older than the newest of them the year stands in the cell. “Not looked up” is no "
        "verdict. Tails and Qubes OS "
        "stand where they are the better tool.\n"
    )
    return [
        head,
        table("on what", "best served by", *systems),
        *rows,
        "\nSources:\n\n",
        *(f"{number}. {source}, {when.isoformat()}\n" for number, (source, when) in enumerate(sources, 1)),
    ]


def controls_cell(claim: Claim) -> str:
    """The controls of CLAIM, the keys of one file together."""
    files: dict[str, list[str]] = {}
    for control in map(parse_control, claim.controls):
        files.setdefault(control.path, []).extend([control.key] if control.key else [])
    return ", ".join(f"`{path}`" + "".join(f" `#{key}`" for key in keys) for path, keys in files.items())


def checks_cell(claim: Claim) -> str:
    """Where CLAIM is checked: image, boot, and the phases of rehearsals."""
    layers = [layer for layer in LAYERS[:2] if claim.layer(layer)]
    trials = [*claim.attack, *claim.usability]
    return ", ".join([*layers, *dict.fromkeys(f"`{trial.run}`" for trial in trials)])


def claims_table(model: Model) -> list[str]:
    """Every claim with its state, controls, checks, known bypass and cost."""
    head = (
        "## Every claim\n\nControls are files of this repository, `#` and what a file says of one thing, or "
        "`base:` for a setting of the base that threats/base.toml names. Checks are made of the image and of "
        "the running machine, and by the phases of rehearsals that try to break the claim, or use what it "
        "promised.\n"
    )
    rows = [
        row(
            f"`{one.id}`",
            one.state,
            one.says,
            one.asset,
            controls_cell(one),
            checks_cell(one),
            one.bypass,
            one.cost,
            one.date.isoformat(),
        )
        for one in model.claims
    ]
    return [
        head,
        table(
            "claim",
            "state",
            "what is said",
            "of what",
            "controls",
            "checks",
            "known bypass",
            "cost",
            "thought through",
        ),
        *rows,
        "\n",
    ]
