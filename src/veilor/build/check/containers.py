"""The staged container policy and lookaside configuration, read by the library that machines read it with."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from veilor.build.check.finding import Finding, run_tool
from veilor.build.errors import BuildError
from veilor.build.gate import machine_flags
from veilor.build.stage import stage
from veilor.core import policy
from veilor.core.product import load

POLICY, LOOKASIDE = "etc/containers/policy.json", "etc/containers/registries.d/veilor.yaml"
CLOSED = (
    "docker://127.0.0.1:1/nothing"  # nobody listens there: what is read before the network is what counts
)


def check_policy(root: Path, run) -> list[Finding]:
    """policy.json says what it must, and skopeo takes it with its keys."""
    with tempfile.TemporaryDirectory(prefix="veilor-policy-") as scratch:
        try:
            flags = machine_flags(root, Path(scratch))
        except BuildError as error:
            return [Finding("product.toml", 0, str(error).replace(f"{root}/", ""))]
        found = judge_policy(root, Path(scratch, "tree") / POLICY)
        code, said = run_tool(
            run, ["skopeo", *flags, "copy", "--quiet", CLOSED, f"dir:{scratch}/out"], [Path(scratch)]
        )
        if "connection refused" not in said:
            found.append(
                Finding(
                    "src/veilor/core/policy.py",
                    0,
                    f"skopeo does not take {POLICY}: {' '.join(said.split())[:300]}",
                )
            )
    return found


def judge_policy(root: Path, path: Path) -> list[Finding]:
    """What is wrong with the policy at PATH by our own rules."""
    return [
        Finding("src/veilor/core/policy.py", 0, text)
        for text in policy.problems(path.read_text(), load(root / "product.toml"))
    ]


def check_lookaside(root: Path, run) -> list[Finding]:
    """registries.d names each repository of ours, with its signatures beside the images.

    Without that line machines find no signature.
    """
    product = load(root / "product.toml")
    with tempfile.TemporaryDirectory(prefix="veilor-policy-") as scratch:
        text = (stage(root, Path(scratch, "tree")) / LOOKASIDE).read_text()
    return judge_lookaside(text, [product.image_repo, product.channel_repo])


def judge_lookaside(text: str, repositories: list[str]) -> list[Finding]:
    """What is missing in the registries.d TEXT for REPOSITORIES."""
    where = "src/veilor/core/policy.py"
    try:
        scopes = yaml.safe_load(text)["docker"]
        return [
            Finding(
                where,
                0,
                f"{LOOKASIDE} does not say that the signatures of {repository} lie beside its images; "
                "correct render_registries there",
            )
            for repository in repositories
            if scopes.get(repository, {}).get("use-sigstore-attachments") is not True
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        return [Finding(where, 0, f"{LOOKASIDE} cannot be read ({error}); correct render_registries there")]
