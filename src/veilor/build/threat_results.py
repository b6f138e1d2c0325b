"""What was shown of which claim, where and when: threats/results.json, written from reports of rehearsals.

A result holds for the very controls, checks and phase it was got with: their hash stands beside it, and when one of them
changes the result is stale and counts as not shown.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.threats import FOLDER, LAYERS, Claim, Model

RESULTS = f"{FOLDER}/results.json"
DOCTOR = "attacks:doctor"  # the phase that runs veilor-doctor on a machine: what it shows is the boot layer's
SOURCES = (FOLDER, "scenarios", "overlay", "kickstart", "src/veilor/core", "src/veilor/device")  # what a result may stand on
VERDICTS = ("PASS", "NOT_RUN", "LAB_FAULT", "OS_FAULT")


def phases(source_root: Path) -> dict[str, str]:
    """SCENARIO:PHASE of every scenario, with the phase's code and that of the helpers beside it."""
    found = {}
    for path in sorted((source_root / "scenarios").glob("[!_]*.py")):
        found |= {f"{path.stem}:{name}": code for name, code in phases_in(path.read_text()).items()}
    return found


@functools.cache
def phases_in(text: str) -> dict[str, str]:
    """The phases in a scenario's TEXT, each with its code and all that is no phase."""
    lines, found, spans = text.splitlines(), {}, {}
    for node in ast.parse(text).body:
        for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("phase") and mark.args:
                spans[ast.literal_eval(mark.args[0])] = range(mark.lineno - 1, node.end_lineno)
    taken = {number for span in spans.values() for number in span}
    shared = "\n".join(line for number, line in enumerate(lines) if number not in taken)
    for name, span in spans.items():
        found[name] = "\n".join(lines[number] for number in span) + shared
    return found


def proof(source_root: Path, model: Model, claim: Claim, layer: str, run: str) -> str:
    """The hash of what a result of RUN for CLAIM at LAYER stands on: its controls, its checks, the phase."""
    total = hashlib.sha256(f"{claim.id} {layer} {run}".encode())
    for control in claim.controls:
        path = source_root / control.split("#")[0]
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path] if path.is_file() else []
        for file in files:
            total.update(f"{file.relative_to(source_root)}\n".encode() + file.read_bytes())
        if control.startswith("base:"):
            total.update(json.dumps(model.base.get(control.removeprefix("base:"), {}), sort_keys=True).encode())
    total.update(json.dumps([asdict(check) for check in claim.layer(layer)], sort_keys=True).encode())
    total.update((phases(source_root).get(run) or "").encode())
    return total.hexdigest()


def runs(claim: Claim) -> list[tuple[str, str]]:
    """(layer, SCENARIO:PHASE) of everything that shows CLAIM on a machine."""
    return [("boot", DOCTOR)] * bool(claim.boot) + [(layer, trial.run) for layer in ("attack", "usability") for trial in claim.layer(layer)]


def load(source_root: Path) -> list[dict]:
    """The recorded results. Raises BuildError when the file cannot be used."""
    path = source_root / RESULTS
    try:
        return json.loads(path.read_text())["results"] if path.exists() else []
    except (ValueError, LookupError, TypeError) as error:
        raise BuildError(f"{path} cannot be used ({error}); take it from git, or remove it and record anew") from None


def record(source_root: Path, model: Model, report: Path) -> list[dict]:
    """Take what the rehearsal's REPORT (report.json) shows into threats/results.json; the new results.

    A check whose title begins with a claim's id is that claim's; where a phase has none of these, its verdict stands for
    every claim that names it. Raises BuildError for a report of a sabotaged run, or one that cannot be used.
    """
    try:
        data = json.loads(report.read_text())
        if data["sabotage"]:
            raise BuildError(f"{report} is of a run with the sabotage {data['sabotage']}, which shows nothing of the product")
        shown = {f"{data['scenario']}:{phase['name']}": phase for phase in data["phases"]}
        began = datetime.fromisoformat(data["started"]).timestamp()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BuildError(f"{report} is no report of a rehearsal that can be used ({error}); nothing was recorded") from None
    later = [path for folder in SOURCES for path in sorted((source_root / folder).rglob("*"))
             if path.is_file() and path.suffix != ".pyc" and path.name != Path(RESULTS).name and path.stat().st_mtime > began]
    if later:
        raise BuildError(f"{later[0].relative_to(source_root)} was written after the rehearsal of {report} began, so it may show something "
                         "else than what lies here; rehearse again, and record before anything changes")
    known, new, ids = phases(source_root), [], {claim.id for claim in model.claims}
    for claim in model.claims:
        for layer, run in runs(claim):
            if run in shown and run in known:
                new.append({"claim": claim.id, "layer": layer, "run": run, "verdict": verdict(shown[run], claim.id, ids),
                            "when": (shown[run].get("carried") or data["started"])[:10], "base": data["base"],
                            "stand_ins": sorted(data["stand_ins"]), "proof": proof(source_root, model, claim, layer, run)})
    names = {(one["claim"], one["layer"], one["run"]) for one in new}
    kept = [one for one in load(source_root) if (one["claim"], one["layer"], one["run"]) not in names]
    rows = sorted(kept + new, key=lambda one: (one["claim"], LAYERS.index(one["layer"]), one["run"]))
    scratch = source_root / f"{RESULTS}.tmp"
    scratch.write_text(json.dumps({"schema": 1, "results": rows}, indent=1, sort_keys=True) + "\n")
    scratch.replace(source_root / RESULTS)
    return new


def verdict(phase: dict, claim_id: str, ids: set[str]) -> str:
    """What PHASE of a report shows of the claim: the worst of its own checks, or the phase's verdict where it has none.

    A phase that never ended shows nothing of a claim whose checks it did not reach.
    """
    own = [check["verdict"] for check in phase["checks"] if check["title"].startswith(f"{claim_id}: ")]
    marked = any(check["title"].split(": ")[0] in ids for check in phase["checks"])
    if own:
        return max(own, key=VERDICTS.index)
    return "NOT_RUN" if marked else phase["verdict"]


def cell(source_root: Path, model: Model, results: list[dict], claim: Claim, layer: str) -> str:
    """What stands in the matrix for CLAIM at LAYER, of the layers that need a machine: empty where it has no check there."""
    wanted = [run for name, run in runs(claim) if name == layer]
    if not wanted:
        return ""
    said = []
    for run in wanted:
        found = next((one for one in results if (one["claim"], one["layer"], one["run"]) == (claim.id, layer, run)), None)
        if found is None:
            said.append("NOT_RUN")
        elif found["proof"] != proof(source_root, model, claim, layer, run):
            said.append(f"NOT_RUN (stale: {found['verdict']} on {found['when']})")
        else:
            said.append(found["verdict"] + (f" ({'stand-in' if 'base-system' in found['stand_ins'] else found['base']}, {found['when']})"
                                            if found["verdict"] == "PASS" else f" ({found['when']})"))
    return ", ".join(dict.fromkeys(said))
