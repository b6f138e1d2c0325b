"""The channel statement: what machines accept, in an artefact with the same bytes each time, signed before it
is found.
"""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest

from veilor.build import channel
from veilor.build.errors import BuildError

PRODUCT = SimpleNamespace(image_repo="ghcr.io/veilor/veilor-os", tag="44")
DIGEST = "sha256:" + "ab" * 32


def statement(**changes):
    facts = {"digest": DIGEST, "version": "44.20260101.1", "sequence": 7, "issued": 1767225600}
    return channel.make_statement(PRODUCT, **(facts | changes))


def test_the_statement_reads_as_documented():
    assert statement() == {
        "schema": 1,
        "repository": "ghcr.io/veilor/veilor-os",
        "tag": "44",
        "digest": DIGEST,
        "version": "44.20260101.1",
        "sequence": 7,
        "issued": "2026-01-01T00:00:00Z",
        "expires": "2026-01-15T00:00:00Z",
        "rollout": {"start": "2026-01-01T00:00:00Z", "hours": 0},
    }


@pytest.mark.parametrize("changes", [{"digest": "sha256:short"}, {"sequence": -1}, {"version": ""}])
def test_what_machines_refuse_is_not_written(changes):
    with pytest.raises(BuildError, match="refused by every machine"):
        statement(**changes)


def test_the_layout_is_an_artefact_whose_one_layer_is_the_statement(tmp_path):
    said = statement()
    digest = channel.write_layout(said, tmp_path / "one")
    assert channel.write_layout(said, tmp_path / "two") == digest
    blobs = {path.name: path.read_bytes() for path in (tmp_path / "one/blobs/sha256").iterdir()}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())
    manifest = json.loads(blobs[digest.removeprefix("sha256:")])
    [layer] = manifest["layers"]
    assert json.loads(blobs[layer["digest"].removeprefix("sha256:")]) == said
    assert manifest["artifactType"] == layer["mediaType"] == channel.STATEMENT


def test_the_tag_moves_only_after_the_signature(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(channel, "sign_image", lambda ref, *_, **__: steps.append(("sign", ref)))
    run = lambda argv, **_: steps.append((argv[0], argv[-1]))  # noqa: E731
    digest = channel.publish(
        statement(), "r.test/c", "44", tmp_path / "k", identity="ghcr.io/c", run=run, work=tmp_path
    )
    assert steps == [
        ("skopeo", f"docker://r.test/c@{digest}"),
        ("sign", f"r.test/c@{digest}"),
        ("skopeo", "docker://r.test/c:44"),
    ]
    assert not list(tmp_path.iterdir())


def test_a_failed_signature_leaves_the_tag_where_it_was(tmp_path, monkeypatch):
    pushed = []

    def refuse(*_, **__):
        raise BuildError("no key")

    monkeypatch.setattr(channel, "sign_image", refuse)
    with pytest.raises(BuildError, match="no key"):
        channel.publish(
            statement(),
            "r.test/c",
            "44",
            tmp_path / "k",
            identity="i",
            run=lambda argv, **_: pushed.append(argv[-1]),
        )
    assert not [ref for ref in pushed if ref.endswith(":44")]


def test_a_tag_that_no_registry_takes_is_refused(tmp_path):
    with pytest.raises(BuildError, match="no tag"):
        channel.publish(statement(), "r.test/c", "4 4", tmp_path / "k", identity="i", run=None)


def test_what_is_withdrawn_is_named_and_nothing_is_said_of_it_otherwise():
    bad, worse, good = (f"sha256:{letter * 64}" for letter in "abc")
    said = channel.make_statement(
        PRODUCT, digest=good, version="44.3", sequence=3, issued=0, withdrawn=[worse, bad, bad]
    )
    assert said["withdrawn"] == [bad, worse]
    assert "withdrawn" not in channel.make_statement(
        PRODUCT, digest=good, version="44.3", sequence=3, issued=0
    )
    with pytest.raises(BuildError, match="withdrawn"):
        channel.make_statement(PRODUCT, digest=good, version="44.3", sequence=3, issued=0, withdrawn=[good])
