"""veilor-status --claims: what was shown of the image that runs is told from what was shown on a stand-in."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jsonschema
import pytest

from veilor.core import claims as core

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = [
    core.Claim(name, name.split(".")[0], "A sentence.", state, ())
    for name, state in (("local.ptrace", "enforced"), ("usb.dma", "enforced"), ("laptop.asleep", "residual"))
]


def attested(machine, subject: str, *results: dict, **more) -> None:
    """What lies beside the image in the registry: a statement with RESULTS about SUBJECT."""
    statement = {
        "_type": "x",
        "predicateType": core.PREDICATE,
        "subject": [{"name": "x", "digest": {"sha256": subject[7:]}}],
        "predicate": {"results": list(results)},
    } | more
    raw = json.dumps(
        {
            "payloadType": "application/vnd.in-toto+json",
            "payload": base64.b64encode(json.dumps(statement).encode()).decode(),
        }
    )
    machine.load()
    machine.world["channel"] = {"raw": raw}
    machine.save()
    machine.put("usr/lib/veilor/claims.json", core.render(CLAIMS))
    machine.put("usr/lib/veilor/tree-digest", "sha256:" + "7" * 64 + "\n")


SEEN = {"claim": "local.ptrace", "layer": "attack", "verdict": "PASS", "stand_ins": ["kernel"]}


@pytest.mark.parametrize(
    ("subject", "image", "stand_in"),
    [("44.1", ["attack"], []), ("tree", [], ["attack"]), ("44.2", [], [])],
    ids=["this image", "its tree", "another image"],
)
def test_what_was_shown_of_this_image_is_told_from_what_was_shown_on_a_stand_in(v1, subject, image, stand_in):
    digest = "sha256:" + "7" * 64 if subject == "tree" else v1.digest(subject)
    attested(v1, digest, SEEN, {**SEEN, "layer": "boot", "verdict": "NOT_RUN"})
    said = v1.program("status", "--claims", "--json")
    assert said.code == 0 and said.data["booted"]["digest"] == v1.digest("44.1")
    shown = {one["id"]: one for one in said.data["shown"]}
    assert set(shown) == {"local.ptrace", "usb.dma"}, "what is not promised has nothing to be shown"
    assert (shown["local.ptrace"]["image"], shown["local.ptrace"]["stand_in"]) == (image, stand_in)
    assert (shown["usb.dma"]["image"], shown["usb.dma"]["stand_in"]) == ([], [])
    assert said.data["stand_ins"] == (["kernel"] if stand_in else [])
    jsonschema.validate(
        said.data, json.loads((ROOT / "overlay/usr/share/veilor/schema/status.schema.json").read_text())
    )
    text = v1.program("status", "--claims").out
    assert (
        f"local.ptrace                   on this very image: {'attack' if image else 'nothing'}; on a "
        "stand-in:" in text
    )


@pytest.mark.parametrize(
    ("channel", "code", "words"),
    [
        ({"error": "reading manifest sha256-1.att: manifest unknown"}, 3, "The registry does not have"),
        ({"error": "A signature was required, but no signature exists"}, 4, "could not be verified"),
        ({"raw": "{}"}, 4, "cannot be understood"),
        ({"raw": '{"payload": "bm9uZQ=="}'}, 4, "cannot be understood"),
    ],
)
def test_what_is_missing_or_not_genuine_shows_nothing(v1, channel, code, words):
    attested(v1, v1.digest("44.1"), SEEN)
    v1.world["channel"] = channel
    v1.save()
    said = v1.program("status", "--claims")
    assert said.code == code and words in said.err and "local.ptrace" not in said.out


def test_results_of_another_shape_are_said_in_a_line(v1):
    attested(v1, v1.digest("44.1"), {"claim": "local.ptrace"})
    said = v1.program("status", "--claims")
    assert said.code == 1 and "cannot be understood" in said.err
    attested(v1, v1.digest("44.1"), SEEN, predicateType="https://slsa.dev/provenance/v1")
    assert v1.program("status", "--claims", "--json").data["shown"][0]["image"] == []
