"""The Containerfile that bluebuild itself writes from the recipe, both ways it can be started. Only the base
is a stand-in.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from veilor.build import builders
from veilor.build.check.image_tree import steps
from veilor.core.product import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    """The recipe as it lies in the repository: bluebuild leaves scripts where it is started."""
    root = tmp_path / "clone"
    shutil.copytree(
        ROOT / "bluebuild", root / "bluebuild", symlinks=True, ignore=shutil.ignore_patterns("stage")
    )
    return root


def generate(tools, scratch: Path, cwd: Path, recipe: str) -> tuple[str, str]:
    """The Containerfile and the stand-in base's digest."""
    if not Path(sys.executable).with_name("bluebuild").exists():
        pytest.skip("NOT RUN: needs bluebuild; `make checkers ARGS=--all` builds it")
    probe = ["unshare", "--map-root-user", "--net", "--mount", "true"]
    if (
        not shutil.which("ip")
        or subprocess.run(probe, capture_output=True, check=False, timeout=30).returncode
    ):
        pytest.skip("NOT RUN: needs ip and user namespaces")
    out = scratch / "Containerfile"
    bench = Path(__file__).with_name("bluebuild_bench.py")
    argv = [*probe[:-1], sys.executable, bench, tools.root, scratch, cwd, recipe, out]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out.read_text(), done.stdout.strip()


@pytest.mark.parametrize(
    "recipe",
    ["recipe.yml", "recipes/recipe.yml"],
    ids=["as scripts/build-image", "as the GitHub action"],
)
def test_the_containerfile_has_every_step_in_order(recipe, tools, clone, tmp_path):
    text, digest = generate(tools, tmp_path, clone / "bluebuild", recipe)
    product = load(ROOT / "product.toml")
    # scripts/build-image puts the verified base in by this argument, which FROM has to take.
    assert f'ARG BASE_IMAGE="{product.base_image}@{digest}"\nFROM "${{BASE_IMAGE}}"' in text
    assert "COPY ./files /files" in text and "COPY ./modules /modules" in text
    ran = [
        (kind, json.loads(config))
        for kind, config in re.findall(r"run_module\.sh '([\w@-]+)' '(\{.*\})'", text)
    ]
    assert [config for _, config in ran] == list(steps(ROOT / "bluebuild"))
    pins = [builders.Builder(one.name, one.tag, digest) for one in builders.read_builders(ROOT)]
    assert not re.search(r"\bfrom=ghcr\.io\S*:(latest|default)", builders.use(text, pins)), (
        "every program by digest"
    )
    assert not re.search(r"/bins/|COPY --from=\S*cosign", text), (
        "nothing of BlueBuild's own goes into the image"
    )
