"""The pure parts: what is taken, and above all what is not."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from veilor.core import host, image, policy, statement
from veilor.core.outcome import MEANINGS, Code, Outcome, exit_codes
from veilor.core.product import load, os_release
from veilor.core.product import parse as parse_product

ROOT = Path(__file__).resolve().parents[2]
TRACES = sorted((ROOT / "tests/data/bootc").glob("*.json"))
PRODUCT = load(ROOT / "product.toml")
GOOD = {
    "schema": 1,
    "repository": "ghcr.io/veilor/veilor-os",
    "tag": "44",
    "digest": "sha256:" + "ab" * 32,
    "version": "44.1",
    "sequence": 7,
    "issued": "2026-01-01T00:00:00Z",
    "expires": "2026-01-15T00:00:00Z",
    "rollout": {"start": "2026-01-01T00:00:00Z", "hours": 0},
}


def said(**changes) -> statement.Statement:
    return statement.parse(json.dumps(GOOD | changes).encode())


def test_a_statement_is_read():
    found = said(more="unknown fields are passed over")
    assert (found.sequence, found.digest, found.title) == (7, GOOD["digest"], "veilor-os 44.1")
    assert found.expires - found.issued == timedelta(days=14)


BAD = [
    {key: value}
    for key, values in {
        "schema": [None, 2, "1", True],
        "repository": [None, "", 1, "a\nb", "x" * 201],
        "tag": [None, ""],
        "version": [None, "", "v" * 81, "\x1b[2J"],
        "digest": [
            None,
            "",
            "sha256:abc",
            "sha512:" + "ab" * 32,
            GOOD["digest"] + " ",
            GOOD["digest"].upper(),
        ],
        "sequence": [None, -1, 1.5, "7", True, 2**53 + 1, [7]],
        "issued": [None, "", "2026-01-01", "2026-13-01T00:00:00Z", 0],
        "expires": [None, "2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z"],
        "rollout": [
            None,
            [],
            {},
            {"start": GOOD["issued"]},
            {"start": GOOD["issued"], "hours": -1},
            {"start": GOOD["issued"], "hours": True},
        ],
    }.items()
    for value in values
]


@pytest.mark.parametrize("changes", BAD, ids=lambda changes: json.dumps(changes)[:40])
def test_a_statement_with_a_wrong_field_is_refused(changes):
    with pytest.raises(ValueError, match="."):
        said(**changes)


@pytest.mark.parametrize("key", GOOD)
def test_a_statement_with_a_missing_field_is_refused(key):
    with pytest.raises(ValueError, match="."):
        statement.parse(json.dumps({name: value for name, value in GOOD.items() if name != key}).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 60000,
        b'{"a":' * 9000,
        b" " * (64 << 10) + json.dumps(GOOD).encode(),
        json.dumps(GOOD).replace('"sequence": 7', '"sequence": 7, "sequence": 9').encode(),
        json.dumps(GOOD).replace('"hours": 0', '"hours": NaN').encode(),
        json.dumps(GOOD).replace('"hours": 0', '"hours": 1e999').encode(),
    ],
)
def test_what_is_no_statement_is_refused(raw):
    with pytest.raises(ValueError, match="."):
        statement.parse(raw)


def test_any_damage_gives_a_statement_or_a_value_error():
    """A short run of random damage; the seed is fixed, so a failure comes again."""
    rng, text = random.Random(44), json.dumps(GOOD).encode()
    for _ in range(4000):
        raw = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(raw))
            raw[at : at + rng.randint(0, 3)] = rng.choice(
                [b"", b'"', b"{", b"9", b"\x00", b"null", bytes([rng.randrange(256)])]
            )
        try:
            assert isinstance(statement.parse(bytes(raw)), statement.Statement)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("place", "seen", "seen_digest", "floor", "fine"),
    [
        ((0, 7), None, None, (0, 0), True),
        ((0, 7), (0, 6), "other", (0, 0), True),
        ((0, 7), (0, 7), GOOD["digest"], (0, 0), True),
        ((0, 7), (0, 7), None, (0, 0), True),
        ((0, 7), None, None, (0, 7), True),
        ((0, 7), (0, 8), GOOD["digest"], (0, 0), False),
        ((0, 7), (0, 7), "other", (0, 0), False),
        ((0, 7), None, None, (0, 8), False),
        ((0, 7), (0, 6), None, (0, 8), False),
        # a new epoch begins to count anew; nothing of an epoch before is newer
        ((1, 1), (0, 2**53), "other", (0, 400), True),
        ((1, 1), (1, 1), "other", (0, 0), False),
        ((1, 1), (1, 2), GOOD["digest"], (0, 0), False),
        ((0, 2**53), (1, 1), GOOD["digest"], (0, 0), False),
        ((0, 2**53), None, None, (1, 0), False),
        ((1, 0), None, None, (1, 0), True),
    ],
)
def test_older_statements_are_refused(place, seen, seen_digest, floor, fine):
    found, seen = said(epoch=place[0], sequence=place[1]), statement.Seen(seen, seen_digest)
    if fine:
        statement.check_sequence(found, seen, floor)
    else:
        with pytest.raises(statement.Refused):
            statement.check_sequence(found, seen, floor)


BUILT = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING_SEEN, SEEN = statement.Seen(None, None), statement.Seen((0, 3), "other")


@pytest.mark.parametrize(
    ("seen", "announced", "runs", "built", "fine"),
    [
        (SEEN, "44.10", "44.9", None, True),
        (SEEN, "44.10", "44.9", datetime(2030, 1, 1, tzinfo=UTC), True),
        (SEEN, "45.0", "44.9.7", None, True),
        (SEEN, "44.8", "44.9", None, False),
        (SEEN, "44.9", "44.10", BUILT, False),
        (SEEN, "44", "44.1", None, False),
        (SEEN, "44.9", "44.9", BUILT, True),  # the same version: what is announced was built later
        (SEEN, "44.9", "44.9", datetime(2030, 1, 1, tzinfo=UTC), False),
        (SEEN, "new", "44.9", BUILT, True),
        (SEEN, "new", "44.9", datetime(2030, 1, 1, tzinfo=UTC), False),
        (SEEN, "44.10", "9" * 5000, None, True),
        (SEEN, "44.10", None, None, True),
        (NOTHING_SEEN, "44.10", "44.9", None, False),
        (NOTHING_SEEN, "44.9", "44.9", None, False),
    ],
)
def test_what_a_statement_that_has_run_out_still_leads_to(seen, announced, runs, built, fine):
    found = said(version=announced)
    if fine:
        statement.check_late(found, seen, runs, built)
    else:
        with pytest.raises(statement.RefusedLate):
            statement.check_late(found, seen, runs, built)


def test_a_statement_for_something_else_is_refused():
    statement.check_target(said(), "ghcr.io/veilor/veilor-os", "44")
    for repository, tag in (("ghcr.io/veilor/veilor-os", "45"), ("ghcr.io/veilor/other", "44")):
        with pytest.raises(statement.Refused):
            statement.check_target(said(), repository, tag)


def test_expiry():
    assert statement.expired(said(), datetime(2026, 1, 14, tzinfo=UTC)) is None
    assert statement.expired(said(), datetime(2026, 1, 20, tzinfo=UTC)) == timedelta(days=5)


def change(**parts):
    found = json.loads(policy.render(PRODUCT))
    docker = found["transports"]["docker"]
    for key, value in parts.items():
        if key == "default":
            found["default"] = value
        else:
            docker[f"{PRODUCT.registry}/veilor/{key.replace('_', '-')}"] = value
    return json.dumps(found)


OPEN = [{"type": "insecureAcceptAnything"}]


def test_the_rendered_policy_is_intact_also_beside_rules_of_the_owner():
    assert policy.problems(policy.render(PRODUCT), PRODUCT) == []
    mine = json.loads(policy.render(PRODUCT))
    mine["transports"]["docker"]["quay.io/mine"] = OPEN
    mine["transports"]["docker"]["ghcr.io/veilor/veilor-os-else"] = OPEN
    assert policy.problems(json.dumps(mine), PRODUCT) == []


@pytest.mark.parametrize(
    "text",
    [
        change(default=OPEN),
        change(default=[]),
        change(veilor_os=OPEN),
        change(veilor_os_channel=OPEN),
        change(veilor_os=[]),
        change(
            veilor_os=[
                {
                    "type": "sigstoreSigned",
                    "keyPath": "/tmp/mine.pub",
                    "signedIdentity": {"type": "matchRepository"},
                }
            ]
        ),
        json.dumps({"default": [{"type": "reject"}], "transports": {"docker": [[None, None]]}}),
        change(veilor_os=policy.requirement(["/tmp/mine.pub"])),
        change(**{"veilor-os:44": OPEN}),
        change(**{"veilor-os@sha256:00": OPEN}),
        "",
        "[]",
        "{}",
        '{"default": [{"type": "reject"}], "transports": {"docker": []}}',
        "[" * 50000,
    ],
)
def test_a_weaker_policy_is_noticed(text):
    assert policy.problems(text, PRODUCT)


def test_registries_d_names_both_repositories():
    text = policy.render_registries(PRODUCT)
    assert text.count("use-sigstore-attachments: true") == 2
    assert f"  {PRODUCT.image_repo}:\n" in text and f"  {PRODUCT.channel_repo}:\n" in text


def test_the_product_is_read():
    assert (PRODUCT.image_ref, PRODUCT.channel_ref) == (
        f"ghcr.io/veilor/veilor-os:{PRODUCT.version}",
        f"ghcr.io/veilor/veilor-os-channel:{PRODUCT.version}",
    )
    release = dict(line.split("=", 1) for line in os_release(PRODUCT).splitlines())
    assert [release[key] for key in ("ID", "NAME", "ID_LIKE", "IMAGE_ID")] == [
        '"veilor"',
        '"veilor-os"',
        '"fedora"',
        '"veilor-os"',
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('id = "veilor"', ""),
        ('name = "veilor-os"', 'name = "a\\"b"'),
        (f'tag = "{PRODUCT.tag}"', f"tag = {PRODUCT.tag}"),
        ('registry = "ghcr.io"', 'registry = "GHCR io"'),
        ('image = ["veilor-image-a.pub", "veilor-image-b.pub"]', 'image = ["../../etc/passwd"]'),
        ('channel = ["veilor-channel-a.pub", "veilor-channel-b.pub"]', "channel = []"),
        ("[urls]", "[other]"),
        ("[product]", 'urls = "x"\n[product]'),
    ],
)
def test_a_product_with_a_wrong_field_is_refused(old, new):
    text = (ROOT / "product.toml").read_text()
    assert old in text
    with pytest.raises(ValueError, match="."):
        parse_product(text.replace(old, new, 1))


@pytest.mark.parametrize("text", ["ghcr.io/a/b:1", "127.0.0.1:5000/a:v1.2_x", "a.b/c__d/e-f:44"])
def test_references(text):
    assert image.is_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ghcr.io/a",
        "ghcr.io/a/b",
        "ghcr.io/A:1",
        "ghcr.io/a:1 ",
        "-x/a:1",
        "ghcr.io/a:1@sha256:00",
        "a/../b:1",
        "ghcr.io/a:" + "x" * 200,
        "a/" * 300 + "b:1",
    ],
)
def test_what_is_no_reference(text):
    assert not image.is_reference(text)


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_every_recorded_status_is_understood(path):
    trace = json.loads(path.read_text())
    for key in ("status_before", "status_after"):
        if trace.get(key):
            found, raw = host.parse(json.dumps(trace[key])), trace[key]["status"]
            assert found.booted.digest == raw["booted"]["image"]["imageDigest"]
            assert (
                bool(found.staged) == bool(raw["staged"]) and found.rollback_queued == raw["rollbackQueued"]
            )
            assert len(found.others) == len(raw.get("otherDeployments", []))


def entry(**more):
    return {
        "image": {
            "image": {"image": "r/a:1", "transport": "registry", "signature": "containerPolicy"},
            "imageDigest": GOOD["digest"],
            "version": "1",
        },
        "ostree": {"checksum": "c", "deploySerial": 0},
    } | more


def document(**status):
    return json.dumps({"kind": "BootcHost", "status": {"booted": entry(), **status}})


@pytest.mark.parametrize(
    ("status", "nth"),
    [
        ({}, "booted"),
        ({"staged": entry(downloadOnly=True)}, "booted"),
        ({"staged": entry()}, "staged"),
        ({"rollback": entry(), "rollbackQueued": True}, "rollback"),
        ({"rollback": entry(), "staged": entry(), "rollbackQueued": True}, "staged"),
    ],
)
def test_what_boots_next(status, nth):
    found = host.parse(document(**status))
    assert found.next is getattr(found, nth)


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": None},
        {"signature": "insecure"},
        {"signature": {"ostreeRemote": "x"}},
        {"transport": "oci"},
        {"image": "r/b:1"},
    ],
)
def test_only_the_reference_from_its_registry_under_the_policy_counts_as_followed(changes):
    booted = entry()
    assert host.parse(document(booted=booted)).booted.follows("r/a:1")
    booted["image"]["image"] |= changes
    assert not host.parse(document(booted=booted)).booted.follows("r/a:1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": "BootcHost"}',
        '{"kind": "BootcHost", "status": []}',
        document(booted=["x"]),
        document(booted={"image": "x"}),
        document(otherDeployments={"x": 1}),
        document(rollbackQueued="yes"),
        document(booted=entry(downloadOnly="yes")),
        document(booted=entry(ostree={"deploySerial": True})),
        "[" * 50000,
    ],
)
def test_what_is_no_status_is_a_value_error(text):
    with pytest.raises(ValueError, match="."):
        host.parse(text)


def test_a_version_cannot_carry_escapes_to_a_terminal():
    booted = entry()
    booted["image"]["version"] = "44\x1b[2J"
    assert host.parse(document(booted=booted)).booted.title == "44[2J"


def test_outcomes():
    assert set(MEANINGS) == set(Code) and "  4    refused" in exit_codes(Code.REFUSED)
    found = Outcome(Code.DONE, "one\nline", "and\x1b[1m more", "do it?", {"code": 9, "state": "x"})
    assert found.line() == "one line. And [1m more. Do it?" and "\x1b" not in found.line()
    assert found.as_dict()["code"] == 0 and found.as_dict()["state"] == "x"
