"""What was shown of which claim, where and when: threats/results.json, written from reports of rehearsals.

A report says with which controls, checks and phases it was made: their proofs (proof.py) stand in it, taken
before its first phase. When one of them has changed since, what was shown is stale and counts as not shown.
Beside what was shown stands its negative control: whether the same check was seen to fail with the control
removed, in the phase itself or by a sabotage of the rehearsal.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from veilor.build.errors import BuildError
from veilor.build.stage import stage, tree_digest
from veilor.build.threats.model import FOLDER, LAYERS, Claim, Model, load_model
from veilor.build.threats.proof import DOCTOR, proof_of

RESULTS = f"{FOLDER}/results.json"
VERDICTS = ("PASS", "NOT_RUN", "LAB_FAULT", "OS_FAULT")  # from the best to the worst
UNSEEN = ("NOT_RUN", "LAB_FAULT")  # a phase with one of these and without a check shows nothing
NEGATIVE_CONTROL = "{} negative control: "  # how the title of such a check begins


@dataclass(frozen=True)
class Run:
    """Something that shows a claim on a machine: `phase` is SCENARIO:PHASE."""

    layer: str
    phase: str
    negative_control: str


@dataclass(frozen=True)
class NegativeControl:
    """What was seen with the control removed: PASS when the check then failed.

    `by` is `phase` or `sabotage NAME`, `when` a day (YYYY-MM-DD), `proof` that of the sources at the time.
    """

    by: str
    verdict: str
    when: str
    proof: str

    @staticmethod
    def from_dict(data: dict[str, Any]) -> NegativeControl:
        """The negative control in DATA of a row of results.json. Raises LookupError, TypeError."""
        return NegativeControl(
            text_of(data, "by"), text_of(data, "verdict"), text_of(data, "when"), text_of(data, "proof")
        )


@dataclass(frozen=True)
class Result:
    """What `run` (SCENARIO:PHASE) showed of `claim` at `layer`; without `verdict` only its negative control.

    `base` and `stand_ins`: on what it was shown. `tree`: the digest of the staged tree. `passed`: how many of
    the claim's checks passed, of how many. `not_run`: title and reason of each check that could not be made.
    `when` is a day (YYYY-MM-DD), `proof` that of the sources at the time.
    """

    claim: str
    layer: str
    run: str
    verdict: str = ""
    passed: tuple[int, int] = (0, 0)
    not_run: tuple[tuple[str, str], ...] = ()
    base: str = ""
    stand_ins: tuple[str, ...] = ()
    tree: str = ""
    when: str = ""
    proof: str = ""
    fails: NegativeControl | None = None

    @property
    def name(self) -> tuple[str, str, str]:
        """What there is one result of: claim, layer and run."""
        return self.claim, self.layer, self.run

    @property
    def proved(self) -> bool:
        """Whether the check was seen to fail with its control removed, on the sources on which it held."""
        return self.fails is not None and self.fails.verdict == "PASS" and self.fails.proof == self.proof

    def to_dict(self) -> dict[str, Any]:
        """The result as results.json has it: what is not known is left out."""
        data = asdict(self)
        if not self.verdict:
            data = {key: data[key] for key in ("claim", "layer", "run", "fails")}
        if self.fails is None:
            del data["fails"]
        return data

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Result:
        """The result in DATA, a row of results.json; keys that it does not know are left out.

        Raises LookupError, TypeError or ValueError for another shape.
        """
        found = Result(
            text_of(data, "claim"),
            text_of(data, "layer"),
            text_of(data, "run"),
            fails=NegativeControl.from_dict(data["fails"]) if "fails" in data else None,
        )
        if "verdict" not in data:
            return found
        passed, total = map(int, data["passed"])
        return replace(
            found,
            verdict=text_of(data, "verdict"),
            passed=(passed, total),
            not_run=tuple((str(title), str(reason)) for title, reason in data["not_run"]),
            base=text_of(data, "base"),
            stand_ins=tuple(map(str, data["stand_ins"])),
            tree=text_of(data, "tree"),
            when=text_of(data, "when"),
            proof=text_of(data, "proof"),
        )


def text_of(data: dict[str, Any], key: str) -> str:
    """The text that DATA has under KEY. Raises LookupError, TypeError."""
    value = data[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is no text")
    return value


@dataclass(frozen=True)
class ReportedCheck:
    """A check of a phase, as the rehearsal's report has it."""

    title: str
    verdict: str
    detail: str


@dataclass(frozen=True)
class ReportedPhase:
    """A phase of a rehearsal's report. `carried`: when it was run, where that was an earlier rehearsal."""

    name: str
    verdict: str
    carried: str
    checks: tuple[ReportedCheck, ...]

    def worst(self, beginning: str) -> str:
        """The worst verdict of the checks whose title has this BEGINNING; empty without any."""
        found = [check.verdict for check in self.checks if check.title.startswith(beginning)]
        return max(found, key=VERDICTS.index, default="")


@dataclass(frozen=True)
class Report:
    """What is taken of a rehearsal's report.json.

    `noticed`: whether the sabotage was noticed; None where the run came to no end.
    `proofs`: the proof of every result by `CLAIM LAYER RUN`, taken before the first phase.
    """

    scenario: str
    phases: tuple[ReportedPhase, ...]
    sabotage: str | None
    noticed: bool | None
    when: str
    base: str
    stand_ins: tuple[str, ...]
    tree: str
    proofs: dict[str, str]


def runs(claim: Claim) -> list[Run]:
    """Everything that shows CLAIM on a machine."""
    boot = [Run("boot", DOCTOR, "phase")] if claim.boot else []
    trials = [(layer, trial) for layer in ("attack", "usability") for trial in claim.trials(layer)]
    return boot + [Run(layer, trial.run, trial.negative_control) for layer, trial in trials]


def snapshot(source_root: Path) -> dict[str, Any]:
    """What a rehearsal's report says of the sources it is made with: the staged tree's digest, and every
    result's proof.
    """
    model = load_model(source_root)
    with tempfile.TemporaryDirectory(prefix="veilor-snapshot-") as scratch:
        tree = tree_digest(stage(source_root, Path(scratch, "tree")))
    proofs = {}
    for claim in model.claims:
        for run in runs(claim):
            proofs[f"{claim.id} {run.layer} {run.phase}"] = proof_of(
                source_root, model, claim, run.layer, run.phase
            )
    return {"tree": tree, "proofs": proofs}


def load_results(source_root: Path) -> list[Result]:
    """The recorded results. Raises BuildError when the file cannot be used."""
    path = source_root / RESULTS
    try:
        rows = json.loads(path.read_text())["results"] if path.exists() else []
        return [Result.from_dict(row) for row in rows]
    except (ValueError, LookupError, TypeError) as error:
        raise BuildError(
            f"{path} cannot be used ({error}); take it from git, or remove it and record anew"
        ) from None


def save_results(source_root: Path, results: list[Result]) -> None:
    """Write RESULTS, which take the place of what was recorded."""
    ordered = sorted(results, key=lambda one: (one.claim, LAYERS.index(one.layer), one.run))
    data = {"schema": 1, "results": [one.to_dict() for one in ordered]}
    scratch = source_root / f"{RESULTS}.tmp"
    scratch.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    scratch.replace(source_root / RESULTS)


def read_report(path: Path) -> Report:
    """The rehearsal's report (report.json) at PATH. Raises BuildError for one that cannot be used."""
    try:
        data = json.loads(path.read_text())
        if data["source"] == {}:
            raise BuildError(f"what lies here changed while the rehearsal of {path} ran; rehearse again")
        report = Report(
            data["scenario"],
            tuple(read_phase(phase) for phase in data["phases"]),
            data["sabotage"],
            data["noticed"],
            data["started"][:10],
            data["base"],
            tuple(sorted(data["stand_ins"])),
            data["source"]["tree"],
            dict(data["source"]["proofs"]),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BuildError(
            f"{path} is no report of a rehearsal that can be used ({error}); nothing was recorded"
        ) from None
    if report.sabotage and report.noticed is None:
        raise BuildError(
            f"{path} is of a run with the sabotage {report.sabotage} that came to no end; nothing was "
            "recorded"
        )
    return report


def read_phase(data: dict[str, Any]) -> ReportedPhase:
    """The phase in DATA of a report. Raises LookupError, TypeError, ValueError."""
    checks = tuple(
        ReportedCheck(check["title"], check["verdict"], check.get("detail", "")) for check in data["checks"]
    )
    phase = ReportedPhase(data["name"], data["verdict"], data.get("carried") or "", checks)
    if not {check.verdict for check in checks} | {phase.verdict} <= set(VERDICTS):
        raise ValueError(f"phase {phase.name} has a verdict that is none")
    return phase


def record(source_root: Path, model: Model, report: Path) -> list[Result]:
    """Take what the rehearsal's REPORT (report.json) shows into threats/results.json; the results that are
    new there.

    A check whose title begins with a claim's id is that claim's; where a phase has none of these, its verdict
    stands for every claim that names it; one that was left out shows nothing, and takes nothing away. A
    report of a sabotaged run shows of the claims that name the sabotage whether it was noticed, and nothing
    else. What no claim names any more goes. Raises BuildError for a report that cannot be used.
    """
    data = read_report(report)
    named = {(claim.id, run.layer, run.phase) for claim in model.claims for run in runs(claim)}
    rows = {one.name: one for one in load_results(source_root) if one.name in named}
    new = []
    for claim in model.claims:
        for run in runs(claim):
            before = rows.get((claim.id, run.layer, run.phase))
            if data.sabotage:
                row = noticed(data, claim, run, before)
            else:
                row = shown(data, model, claim, run, before)
            if row is not None:
                rows[row.name] = row
                new.append(row)
    save_results(source_root, list(rows.values()))
    return new


def noticed(report: Report, claim: Claim, run: Run, before: Result | None) -> Result | None:
    """What a sabotaged run's REPORT shows of CLAIM by RUN: the negative control, if it is that sabotage."""
    stamp = report.proofs.get(f"{claim.id} {run.layer} {run.phase}")
    if not stamp or run.negative_control != f"sabotage {report.sabotage}":
        return None
    verdict = "PASS" if report.noticed else "OS_FAULT"
    fails = NegativeControl(run.negative_control, verdict, report.when, stamp)
    return replace(before or Result(claim.id, run.layer, run.phase), fails=fails)


def shown(report: Report, model: Model, claim: Claim, run: Run, before: Result | None) -> Result | None:
    """What REPORT shows of CLAIM by RUN; None where it shows nothing and takes nothing away from BEFORE."""
    stamp = report.proofs.get(f"{claim.id} {run.layer} {run.phase}")
    phase = next((one for one in report.phases if f"{report.scenario}:{one.name}" == run.phase), None)
    if not stamp or phase is None:
        return None
    if before is not None and phase.verdict in UNSEEN and not phase.checks:
        return None
    row = replace(
        verdict_of(phase, Result(claim.id, run.layer, run.phase), {one.id for one in model.claims}),
        base=report.base,
        stand_ins=report.stand_ins,
        tree=report.tree,
        when=(phase.carried or report.when)[:10],
        proof=stamp,
        fails=before.fails if before is not None else None,
    )
    gone = phase.worst(NEGATIVE_CONTROL.format(claim.id))
    if gone:
        row = replace(row, fails=NegativeControl("phase", gone, row.when, stamp))
    return row


def verdict_of(phase: ReportedPhase, row: Result, ids: set[str]) -> Result:
    """ROW with what PHASE shows of its claim: the worst of the claim's own checks, how many passed, and which
    were not run and why.

    Where it has none, the phase's verdict stands for it, unless the phase has checks of other claims (IDS): a
    phase that never ended shows nothing of a claim whose checks it did not reach.
    """
    own = [check for check in phase.checks if check.title.startswith(f"{row.claim}: ")]
    if not own:
        marked = any(check.title.split(": ")[0] in ids for check in phase.checks)
        return replace(row, verdict="NOT_RUN" if marked else phase.verdict)
    left = [check for check in own if check.verdict == "NOT_RUN"]
    return replace(
        row,
        verdict=phase.worst(f"{row.claim}: "),
        passed=(sum(check.verdict == "PASS" for check in own), len(own)),
        not_run=tuple((check.title.split(": ", 1)[1], check.detail) for check in left),
    )


def fresh(source_root: Path, model: Model, row: Result) -> bool:
    """Whether what ROW was shown with is what lies here: its controls, checks and phase."""
    claim = next((one for one in model.claims if one.id == row.claim), None)
    return claim is not None and row.proof == proof_of(source_root, model, claim, row.layer, row.run)


def stale(source_root: Path, model: Model, results: list[Result]) -> list[Result]:
    """Those of RESULTS whose controls, checks or phase have changed since they were shown."""
    return [one for one in results if one.verdict and not fresh(source_root, model, one)]


def describe(row: Result, negative_control: str) -> str:
    """What ROW showed, in a cell's words. NEGATIVE_CONTROL: how its check is to be seen to fail."""
    where = f"{'stand-in' if 'base-system' in row.stand_ins else row.base}, {row.when}"
    if row.verdict == "NOT_RUN":
        some, of = row.passed
        return f"NOT_RUN in part: {some} of {of} PASS ({where})" if some else f"NOT_RUN ({row.when})"
    if row.verdict != "PASS":
        return f"{row.verdict} ({row.when})"
    if negative_control.startswith("none"):
        return f"PASS ({where})"
    return f"PASS, {'' if row.proved else 'no '}negative control ({where})"


def cell(source_root: Path, model: Model, results: list[Result], claim: Claim, layer: str) -> str:
    """What stands in the matrix for CLAIM at LAYER, of the layers that need a machine: empty where it has no
    check there. What is stale counts as not run.
    """
    rows = {one.name: one for one in results}
    found = []
    for run in runs(claim):
        if run.layer != layer:
            continue
        row = rows.get((claim.id, layer, run.phase))
        if row is None or not row.verdict:
            found.append("NOT_RUN")
        elif fresh(source_root, model, row):
            found.append(describe(row, run.negative_control))
        elif row.verdict == "NOT_RUN":
            found.append("NOT_RUN")
        else:
            found.append(f"NOT_RUN (stale: {row.verdict} on {row.when})")
    return ", ".join(dict.fromkeys(found))
