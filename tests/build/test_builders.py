"""Every program of the build by digest: what bluebuild takes by tag is put right, or the build stops."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from veilor.build import builders
from veilor.build.errors import BuildError

ROOT = Path(__file__).resolve().parents[2]
NEW, OLD = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
SCRIPT = builders.Builder("ghcr.io/blue-build/modules/script", "latest", NEW)
# As BlueBuild's template writes it (blue-build/cli of 2026-08-22: Containerfile.j2, modules.j2, copy.j2).
RUN = r"""RUN \
  --mount=type=bind,from=stage-files,src=/files,dst=/tmp/files,rw \
  --mount=type=bind,from={},src=/modules,dst=/tmp/modules,rw \
  /x
"""


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "bluebuild").mkdir()
    shutil.copyfile(ROOT / builders.FILE, tmp_path / builders.FILE)
    return tmp_path


def test_a_tag_gives_way_to_its_digest_and_stages_stay():
    text = builders.use(RUN.format("ghcr.io/blue-build/modules/script:latest"), [SCRIPT])
    assert text == RUN.format(f"ghcr.io/blue-build/modules/script@{NEW}")
    fixed = f"""ARG BASE_IMAGE="x"
FROM "${{BASE_IMAGE}}" AS veilor-os
FROM veilor-os
COPY --from=ghcr.io/x/y@{OLD} /a /b
"""
    assert builders.use(fixed, []) == fixed


@pytest.mark.parametrize(
    "line",
    [
        RUN.format("ghcr.io/blue-build/modules/script:v2"),
        RUN.format("ghcr.io/blue-build/modules/new:latest"),
        "COPY --from=ghcr.io/sigstore/cosign/cosign:v3 /a /b\n",
        "FROM docker.io/library/alpine:3 AS other\n",
        "FROM --platform=linux/amd64 quay.io/fedora/fedora:44 AS other\n",
        "RUN --mount=type=bind,from=localhost:5000/x,src=/a,dst=/b /x\n",
    ],
)
def test_what_nobody_has_pinned_stops_the_build(line):
    with pytest.raises(BuildError, match="lacks"):
        builders.use(line, [SCRIPT])


def test_until_they_are_pinned_no_image_is_built(clone):
    text = RUN.format("ghcr.io/blue-build/nushell-image:default")
    with pytest.raises(BuildError, match="not pinned yet"):
        builders.use(text, [builders.Builder("ghcr.io/blue-build/nushell-image", "default", "")])


def test_the_bot_raises_what_has_moved_and_nothing_else(clone):
    asked = []
    assert len(builders.pin(clone, lambda reference: asked.append(reference) or OLD)) == len(asked) == 4
    assert builders.pin(clone, lambda reference: NEW if "dnf" in reference else OLD) == [
        "ghcr.io/blue-build/modules/dnf"
    ]
    found = {one.name: one.digest for one in builders.read_builders(clone)}
    assert found.pop("ghcr.io/blue-build/modules/dnf") == NEW and set(found.values()) == {OLD}
    assert (clone / builders.FILE).read_text().startswith("# ")


@pytest.mark.parametrize("answer", ["", "latest", "sha256:short"])
def test_an_answer_that_is_no_digest_pins_nothing(answer, clone):
    before = (clone / builders.FILE).read_text()
    with pytest.raises(BuildError, match="nothing was pinned"):
        builders.pin(clone, lambda reference: answer)
    assert (clone / builders.FILE).read_text() == before
