"""What was shown of which claim, where and when: threats/results.json, written from reports of rehearsals.

A report says with which controls, checks and phases it was made: their hash stands in it, taken before its
first phase. When one of them has changed since, what was shown is stale and counts as not shown. Beside what
was shown stands whether the same check was seen to fail with the control taken away: in the phase itself, or
by a sabotage of the rehearsal.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.stage import stage, tree_digest
from veilor.build.threats.model import FOLDER, LAYERS, Claim, Model, load_model

RESULTS = f"{FOLDER}/results.json"
DOCTOR = "attacks:doctor"  # the phase that runs veilor-doctor on a machine: what it shows is the boot layer's
LOOKS, TRIES = "src/veilor/device/doctor", "scenarios/guest/tries.py"  # the code of checks that is no phase's
VERDICTS = ("PASS", "NOT_RUN", "LAB_FAULT", "OS_FAULT")
UNSEEN = ("NOT_RUN", "LAB_FAULT")  # a phase with one of these and without a check shows nothing
NEGATIVE_CONTROL = "{} negative control: "  # how the title of such a check begins


def phases(source_root: Path) -> dict[str, str]:
    """SCENARIO:PHASE of every scenario, with the phase's code and that of the helpers that it uses. Raises
    BuildError.
    """
    found = {}
    for path in sorted((source_root / "scenarios").glob("[!_]*.py")):
        try:
            found |= {f"{path.stem}:{name}": code for name, code in phases_in(path.read_text()).items()}
        except (SyntaxError, ValueError) as error:
            raise BuildError(
                f"{path} is no scenario that can be read ({error}); mend it, or take it from git"
            ) from None
    return found


@functools.cache
def phases_in(text: str) -> dict[str, str]:
    """The phases in a scenario's TEXT, each with its code and all of the module that it uses, near or far."""
    parts, found = parts_of(text)
    return {
        phase: "\n".join(parts[name][0] for name in sorted(reached(parts, name)))
        for phase, name in found.items()
    }


def parts_of(text: str) -> tuple[dict[str, tuple[str, set[str]]], dict[str, str]]:
    """What a module's TEXT defines: name to code and the names used in it; and the function of each phase."""
    lines, parts, found = text.splitlines(), {}, {}
    for node in ast.parse(text).body:
        first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
        code = "\n".join(lines[first - 1 : node.end_lineno])
        targets = [name for part in getattr(node, "targets", ()) for name in ast.walk(part)]
        named = (
            [node.name] if hasattr(node, "name") else [one.id for one in targets if isinstance(one, ast.Name)]
        )
        parts |= {
            name: (code, {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}) for name in named
        }
        for mark in getattr(node, "decorator_list", ()):
            if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("phase") and mark.args:
                found[ast.literal_eval(mark.args[0])] = node.name
    return parts, found


def reached(parts: dict[str, tuple[str, set[str]]], first: str) -> set[str]:
    """FIRST and every name of PARTS that it uses, directly or through others."""
    seen, waiting = set(), [first]
    while waiting:
        name = waiting.pop()
        if name in parts and name not in seen:
            seen.add(name)
            waiting += parts[name][1]
    return seen


def looks(source_root: Path, kinds: list[str]) -> str:
    """The doctor's code for looks of these KINDS: the function of that name (or its class) and what it uses
    in its module.
    """
    said = []
    for file in sorted((source_root / LOOKS).glob("*.py")):
        parts = parts_of(file.read_text())[0]
        for kind in kinds:
            name = {"unit": "Units"}.get(kind, kind.replace("-", "_"))
            said += [f"{kind} {one}\n{parts[one][0]}" for one in sorted(reached(parts, name))]
    return "\n".join(said)


def read(path: Path) -> list[str]:
    """The lines of the file at PATH; none where there is no such file."""
    return path.read_text().splitlines() if path.is_file() else []


def proof(source_root: Path, model: Model, claim: Claim, layer: str, run: str) -> str:
    """The hash of what a result of RUN for CLAIM at LAYER stands on: its controls, its checks and their code,
    the phase.
    """
    total = hashlib.sha256(f"{claim.id} {layer} {run}".encode())
    parts = [
        source_root / control
        for control in claim.controls
        if not control.startswith("base:") and "#" not in control
    ]
    if layer == "boot":
        total.update(looks(source_root, sorted({check.kind for check in claim.boot})).encode())
    parts += [source_root / TRIES] if layer != "boot" and run.startswith(("attacks:", "strangers:")) else []
    for path in parts:
        files = (
            sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")
            if path.is_dir()
            else [path]
        )
        for file in files:
            total.update(
                f"{file.relative_to(source_root)}\n".encode() + (file.read_bytes() if file.is_file() else b"")
            )
    for control in claim.controls:
        path, _, word = control.partition("#")  # of a file that holds much else, the lines with that word
        if word:
            total.update(
                control.encode()
                + "\n".join(line for line in read(source_root / path) if word in line).encode()
            )
        if control.startswith("base:"):
            total.update(
                json.dumps(model.base.get(control.removeprefix("base:"), {}), sort_keys=True).encode()
            )
    total.update(json.dumps([asdict(check) for check in claim.layer(layer)], sort_keys=True).encode())
    total.update((phases(source_root).get(run) or "").encode())
    return total.hexdigest()


def runs(claim: Claim) -> list[tuple[str, str, str]]:
    """(layer, SCENARIO:PHASE, negative_control) of everything that shows CLAIM on a machine."""
    boot = [("boot", DOCTOR, "phase")] * bool(claim.boot)
    return boot + [
        (layer, trial.run, trial.negative_control)
        for layer in ("attack", "usability")
        for trial in claim.layer(layer)
    ]


def snapshot(source_root: Path) -> dict:
    """What a rehearsal's report says of the sources it is made with: the staged tree's digest, and every
    result's proof.
    """
    model = load_model(source_root)
    with tempfile.TemporaryDirectory(prefix="veilor-snapshot-") as scratch:
        tree = tree_digest(stage(source_root, Path(scratch, "tree")))
    return {
        "tree": tree,
        "proofs": {
            f"{claim.id} {layer} {run}": proof(source_root, model, claim, layer, run)
            for claim in model.claims
            for layer, run, _ in runs(claim)
        },
    }


def load_results(source_root: Path) -> list[dict]:
    """The recorded results. Raises BuildError when the file cannot be used."""
    path = source_root / RESULTS
    try:
        found = json.loads(path.read_text())["results"] if path.exists() else []
        if not all(isinstance(one[key], str) for one in found for key in ("claim", "layer", "run")):
            raise TypeError("a result without its claim, layer and run")
        return found
    except (ValueError, LookupError, TypeError) as error:
        raise BuildError(
            f"{path} cannot be used ({error}); take it from git, or remove it and record anew"
        ) from None


def record(source_root: Path, model: Model, report: Path) -> list[dict]:
    """Take what the rehearsal's REPORT (report.json) shows into threats/results.json; the results that are
    new there.

    A check whose title begins with a claim's id is that claim's; where a phase has none of these, its verdict
    stands for every claim that names it; one that was left out shows nothing, and takes nothing away. A
    report of a sabotaged run shows of the claims that name the sabotage whether it was noticed, and nothing
    else. What no claim names any more goes. Raises BuildError for a report that cannot be used.
    """
    try:
        data = json.loads(report.read_text())
        shown = {f"{data['scenario']}:{phase['name']}": phase for phase in data["phases"]}
        if data["source"] == {}:
            raise BuildError(f"what lies here changed while the rehearsal of {report} ran; rehearse again")
        proofs, sabotage, when = data["source"]["proofs"], data["sabotage"], data["started"][:10]
        about = {"base": data["base"], "stand_ins": sorted(data["stand_ins"]), "tree": data["source"]["tree"]}
        noticed = data["noticed"]
        for phase in data["phases"]:
            if not {check["verdict"] for check in phase["checks"]} | {phase["verdict"]} <= set(VERDICTS):
                raise ValueError(f"phase {phase['name']} has a verdict that is none")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BuildError(
            f"{report} is no report of a rehearsal that can be used ({error}); nothing was recorded"
        ) from None
    if sabotage and noticed is None:
        raise BuildError(
            f"{report} is of a run with the sabotage {sabotage} that came to no end; nothing was recorded"
        )
    new, ids = [], {claim.id for claim in model.claims}
    named = {(claim.id, layer, run) for claim in model.claims for layer, run, _ in runs(claim)}
    rows = {}
    for one in load_results(source_root):
        name = (one["claim"], one["layer"], one["run"])
        if name in named:
            rows[name] = one
    for claim in model.claims:
        for layer, run, negative_control in runs(claim):
            name, stamp = (claim.id, layer, run), proofs.get(f"{claim.id} {layer} {run}")
            if not stamp or (negative_control != f"sabotage {sabotage}" if sabotage else run not in shown):
                continue
            if name in rows and not sabotage and shown[run]["verdict"] in UNSEEN and not shown[run]["checks"]:
                continue
            row = rows.setdefault(name, {"claim": claim.id, "layer": layer, "run": run})
            if sabotage:
                row["fails"] = {
                    "by": negative_control,
                    "verdict": "PASS" if noticed else "OS_FAULT",
                    "when": when,
                    "proof": stamp,
                }
            else:
                row |= {
                    **about,
                    **verdict(shown[run], claim.id, ids),
                    "when": (shown[run].get("carried") or when)[:10],
                    "proof": stamp,
                }
                gone = worst(shown[run], NEGATIVE_CONTROL.format(claim.id))
                if gone:
                    row["fails"] = {"by": "phase", "verdict": gone, "when": row["when"], "proof": stamp}
            new.append(row)
    kept = sorted(rows.values(), key=lambda one: (one["claim"], LAYERS.index(one["layer"]), one["run"]))
    scratch = source_root / f"{RESULTS}.tmp"
    scratch.write_text(json.dumps({"schema": 1, "results": kept}, indent=1, sort_keys=True) + "\n")
    scratch.replace(source_root / RESULTS)
    return new


def worst(phase: dict, beginning: str) -> str:
    """The worst verdict of PHASE's checks whose title has this BEGINNING; empty without any."""
    return max(
        (check["verdict"] for check in phase["checks"] if check["title"].startswith(beginning)),
        key=VERDICTS.index,
        default="",
    )


def verdict(phase: dict, claim_id: str, ids: set[str]) -> dict:
    """What PHASE of a report shows of the claim: the worst of its own checks, how many passed, and which were
    not run and why.

    Where it has none, the phase's verdict stands for it, unless the phase has checks of other claims: a phase
    that never ended shows nothing of a claim whose checks it did not reach.
    """
    own = [check for check in phase["checks"] if check["title"].startswith(f"{claim_id}: ")]
    if not own:
        marked = any(check["title"].split(": ")[0] in ids for check in phase["checks"])
        return {"verdict": "NOT_RUN" if marked else phase["verdict"], "passed": [0, 0], "not_run": []}
    return {
        "verdict": worst(phase, f"{claim_id}: "),
        "passed": [sum(check["verdict"] == "PASS" for check in own), len(own)],
        "not_run": [
            [check["title"].split(": ", 1)[1], check["detail"]]
            for check in own
            if check["verdict"] == "NOT_RUN"
        ],
    }


def fresh(source_root: Path, model: Model, row: dict) -> bool:
    """Whether what ROW was got with is what lies here: its controls, checks and phase."""
    claim = next((one for one in model.claims if one.id == row["claim"]), None)
    return claim is not None and row.get("proof") == proof(
        source_root, model, claim, row["layer"], row["run"]
    )


def proved(row: dict) -> bool:
    """Whether the check of ROW was seen to fail with its control taken away, on the same sources as it was
    seen to hold.
    """
    return row.get("fails", {}).get("verdict") == "PASS" and row["fails"]["proof"] == row["proof"]


def said(source_root: Path, model: Model, claim: Claim, row: dict | None, negative_control: str) -> str:
    """What a cell of the matrix says of one run."""
    if row is None or "verdict" not in row:
        return "NOT_RUN"
    stamp = proof(source_root, model, claim, row["layer"], row["run"])
    if row["proof"] != stamp:
        return (
            "NOT_RUN"
            if row["verdict"] == "NOT_RUN"
            else f"NOT_RUN (stale: {row['verdict']} on {row['when']})"
        )
    where = f"{'stand-in' if 'base-system' in row['stand_ins'] else row['base']}, {row['when']}"
    passed = row["passed"]
    if row["verdict"] == "NOT_RUN":
        return (
            f"NOT_RUN in part: {passed[0]} of {passed[1]} PASS ({where})"
            if passed[0]
            else f"NOT_RUN ({row['when']})"
        )
    if row["verdict"] != "PASS":
        return f"{row['verdict']} ({row['when']})"
    if negative_control.startswith("none"):
        return f"PASS ({where})"
    return f"PASS, {'fails without' if proved(row) else 'not yet seen to fail'} ({where})"


def cell(source_root: Path, model: Model, results: list[dict], claim: Claim, layer: str) -> str:
    """What stands in the matrix for CLAIM at LAYER, of the layers that need a machine: empty where it has no
    check there.
    """
    rows = {(one["claim"], one["layer"], one["run"]): one for one in results}
    found = [
        said(source_root, model, claim, rows.get((claim.id, layer, run)), negative_control)
        for name, run, negative_control in runs(claim)
        if name == layer
    ]
    return ", ".join(dict.fromkeys(found))
