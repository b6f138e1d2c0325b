"""Damage to everything that is read from outside: an answer or the error that is promised, and never a
decision it must not give.

A short run is part of `make test`. VEILOR_FUZZ_EXAMPLES=100000 .venv/bin/python -m pytest
tests/device/test_fuzz.py is a long one; docs/PERFORMANCE.md has its figures.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from veilor.core import host, policy, preflight, product, rollout, statement
from veilor.device import ask, blocked, channel, config, health, network, notices, run, state, tell, usbguard
from veilor.device.run import DeviceError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = int(os.environ.get("VEILOR_FUZZ_EXAMPLES", "60"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="VEILOR_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
PRODUCT = product.load(ROOT / "product.toml")
STATUS = [
    json.loads(path.read_text())[when]
    for path in sorted((ROOT / "tests/data/bootc").glob("*.json"))
    for when in ("status_before", "status_after")
    if json.loads(path.read_text()).get(when)
]
PROGRESS = [
    event
    for path in sorted((ROOT / "tests/data/bootc").glob("*.json"))
    for event in json.loads(path.read_text()).get("progress") or []
]
DIGEST = "sha256:" + "ab" * 32
STATEMENT = {
    "schema": 1,
    "repository": PRODUCT.image_repo,
    "tag": PRODUCT.tag,
    "digest": DIGEST,
    "version": "44.1",
    "sequence": 7,
    "issued": "2026-01-01T00:00:00Z",
    "expires": "2026-01-15T00:00:00Z",
    "withdrawn": ["sha256:" + "cd" * 32],
    "rollout": {"start": "2026-01-01T00:00:00Z", "hours": 24},
}
STATE = {
    "schema": 1,
    "channels": {
        "44": {
            "epoch": 0,
            "sequence": 5,
            "digest": DIGEST,
            "version": "44.1",
            "expires": "2026-01-15T00:00:00Z",
            "withdrawn": [DIGEST],
        }
    },
    "channel": {"sequence": 5, "digest": DIGEST, "version": "44.1", "expires": "2026-01-15T00:00:00Z"},
    "held_back": {DIGEST: {"version": "44.1", "cause": "health", "reason": "r", "when": "w"}},
    "look": {"when": "2026-01-01T00:00:00Z", "failed": True, "turn": "2026-01-01T00:00:00Z"},
}
DEPLOYMENT = {"digest": DIGEST, "version": "44.1", "checksum": "c" * 64, "serial": 0}
HEALTH = {
    "schema": 1,
    "armed": {
        "target": DEPLOYMENT,
        "from": DEPLOYMENT | {"serial": 1},
        "by": "update",
        "unlocked": 1,
        "failures": ["x"],
    },
    "return": {
        "target": DEPLOYMENT,
        "from": DEPLOYMENT,
        "handled": True,
        "unlocked": 1,
        "failures": ["x"],
        "reason": "r",
    },
    "bootstrap": DEPLOYMENT,
    "healthy": [{"digest": DIGEST, "by": "update"}],
}
NOTICE = {
    "schema": 1,
    "notices": {"update": {"code": 0, "what": "w", "means": "", "next": "", "when": "", "line": "w."}},
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [DIGEST, "", "44", 2**63, -1, 1e308, "2026-13-99T99:99:99Z", "\x1b[2J", "9" * 400, "\ud800"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.lists(
    st.sampled_from(["eth0", "lo", "00000000", "0" * 32, "00", "fe80", "x", ""]), max_size=11
).map(" ".join)


def places(data, path=()):
    """Every path into DATA."""
    yield path
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


@st.composite
def damaged(draw, *samples):
    """One of SAMPLES with one to three of its parts replaced, removed or doubled."""
    data = copy.deepcopy(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(data))))
        if not path:
            data = draw(values) if draw(st.integers(0, 9)) == 0 else data
            continue
        parent = data
        for key in path[:-1]:
            parent = parent[key]
        if isinstance(parent, dict) and draw(st.booleans()):
            del parent[path[-1]]
        else:
            parent[path[-1]] = draw(values)
    return data


def text_of(data) -> str:
    return json.dumps(data)  # NaN and lone surrogates as Python writes them: not JSON, and read all the same


@fuzz
@given(damaged(*STATUS))
def test_status(data):
    try:
        found = host.parse(text_of(data))
    except ValueError:
        return
    where = host.image_state(found, PRODUCT.image_ref)
    if where == "ours":
        image = data["status"]["booted"]["image"]["image"]
        assert (image["image"], image["transport"], image["signature"]) == (
            PRODUCT.image_ref,
            "registry",
            "containerPolicy",
        )
    assert found.next is None or found.next.title.isprintable()


@fuzz
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode(errors="replace")))
def test_status_that_is_any_text(text):
    with pytest.raises(ValueError, match="."):
        host.parse(text)


@fuzz
@given(damaged(STATEMENT), st.datetimes(timezones=st.just(UTC)))
def test_statement(data, clock):
    try:
        found = statement.parse(text_of(data).encode(errors="surrogatepass"))
    except ValueError:
        return
    assert (
        0 <= found.sequence <= 2**53 and found.expires > found.issued and found.digest not in found.withdrawn
    )
    assert found.version.isprintable()
    late = statement.expired(found, clock)
    assert late is None or statement.stale_words(late)
    try:
        due = rollout.waits(found, "machine", "normal", clock)
    except OverflowError:
        pytest.fail("a window that no calendar has")
    assert due is None or due > clock


LAYER = hashlib.sha256(b"{}").hexdigest()
MANIFEST = {
    "schemaVersion": 2,
    "layers": [{"mediaType": "application/vnd.veilor.channel", "digest": f"sha256:{LAYER}", "size": 2}],
}


@fuzz
@given(damaged(MANIFEST), st.sampled_from([b"{}", b"", b"{} "]))
def test_artefact(root, data, layer):
    """What skopeo leaves behind is read only if its one layer is what its manifest says; else OSError or
    ValueError.
    """
    root.mkdir(exist_ok=True)
    (root / "manifest.json").write_bytes(text_of(data).encode(errors="surrogatepass"))
    (root / LAYER).write_bytes(layer)
    try:
        assert channel.read_layer(str(root)) == b"{}"
    except (OSError, ValueError):
        return


@fuzz
@given(damaged(STATEMENT))
def test_an_accepted_statement_never_leads_back(data):
    """Whatever a statement says: with a lower number than was seen, or under it with another image, it is
    refused.
    """
    try:
        found = statement.parse(text_of(data).encode(errors="surrogatepass"))
        statement.check_target(found, PRODUCT.image_repo, PRODUCT.tag)
        statement.check_sequence(found, statement.Seen((0, 7), DIGEST), (0, 3))
    except ValueError:
        return
    assert found.place > (0, 7) or (found.place == (0, 7) and found.digest == DIGEST)


@fuzz
@given(damaged(*PROGRESS), st.sampled_from(["auto", "json", "none", "bar"]))
def test_progress(capfd_factory, data, how):
    shown = tell.PullProgress(how)
    shown.how = how
    shown(text_of(data).encode(errors="surrogatepass"))
    shown.end()


@fuzz
@given(st.binary(max_size=300))
def test_progress_that_is_any_bytes(capfd_factory, raw):
    tell.PullProgress("json")(raw)


@fuzz
@given(damaged(json.loads(policy.render(PRODUCT))))
@example(data={"default": [{"type": "reject"}], "transports": {"docker": [[None, None]]}})
def test_policy(data):
    """Intact means: rejects by default, and asks for both of our keys in both of our repositories."""
    if policy.problems(text_of(data), PRODUCT):
        return
    shipped = json.loads(policy.render(PRODUCT))
    assert data["default"] == shipped["default"]
    assert all(
        data["transports"]["docker"][scope] == rule for scope, rule in shipped["transports"]["docker"].items()
    )


@fuzz
@given(st.text(max_size=100), st.integers(0, 2000), st.integers(0, 20))
def test_product(text, at, length):
    whole = (ROOT / "product.toml").read_text()
    try:
        found = product.parse(whole[:at] + text + whole[at + length :])
    except ValueError:
        return
    assert not set('"\\$`') & set(found.name + found.image_ref)


@pytest.fixture
def capfd_factory(capfd):
    """What is printed stays out of the test's own output."""
    return capfd


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "PATH", str(tmp_path / "no-programs"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for path in ("var/lib/veilor", "run/veilor", "etc/veilor", "boot/grub2"):
        (tmp_path / path).mkdir(parents=True)
    return tmp_path


@fuzz
@given(damaged(STATE), damaged(STATEMENT))
def test_memory(root, data, said):
    """A damaged memory is read as far as it goes, and what was never lowered is
    not lowered by writing to it.
    """
    (root / "var/lib/veilor/state.json").write_text(text_of(data))
    try:
        found = statement.parse(text_of(said).encode(errors="surrogatepass"))
    except ValueError:
        found = statement.parse(text_of(STATEMENT).encode())
    before = state.newest_statement_seen(found.tag).place
    state.known_until(found.tag)
    state.withdrawn()
    state.held_back()
    state.record_statement(found)
    after = state.newest_statement_seen(found.tag).place
    assert after == max(before or found.place, found.place)
    state.hold_back(DIGEST, "44.1", "health", "r")
    assert DIGEST in state.held_back()


@fuzz
@given(damaged(HEALTH), st.sampled_from(["unlocked", "settle", "failed", "healthy", "deadline", "return"]))
@example(data=HEALTH | {"healthy": True}, moment="healthy")
def test_health_record(root, data, moment):
    """No program is there, so nothing can be changed: each moment ends, or says what is missing."""
    (root / "var/lib/veilor/health.json").write_text(text_of(data))
    try:
        health.MOMENTS[moment]()
    except DeviceError as error:
        assert error.outcome.what


@fuzz
@given(st.text(max_size=80) | st.binary(max_size=80))
def test_settings(root, text):
    (root / "etc/veilor/veilor.toml").write_bytes(
        text if isinstance(text, bytes) else text.encode(errors="replace")
    )
    assert config.rollout() in rollout.SETTINGS


@fuzz
@given(damaged(NOTICE))
@example(data={"schema": 1, "notices": {"update": {"code": 0, "line": "\ud800\x00"}}})
def test_notices(root, data):
    (root / "run/veilor/notice.json").write_text(text_of(data))
    try:
        notices.show(None)
    except DeviceError as error:
        assert error.outcome.what
    tell.notify("update", None)


@fuzz
@given(
    damaged({"schema": 1, "code": 0, "what": "w", "means": "", "next": "", "warnings": ["x"], "booted": {}})
)
@example(data={"schema": 1, "code": 0, "what": "", "means": "", "next": "", "warnings": []})
def test_answers_of_units(root, data):
    (root / "run/veilor/answer-status.json").write_text(text_of(data))
    real, ask.run = ask.run, lambda *args, **more: run.Done(0, "", "")
    try:
        found = ask.do_by_unit("veilor-status", type("Args", (), {})())
        assert found.line() and json.dumps(found.as_dict())
    except DeviceError as error:
        assert error.outcome.what
    finally:
        ask.run = real


@fuzz
@given(st.lists(WORDS, max_size=4))
def test_routes(root, lines):
    (root / "proc/net").mkdir(parents=True, exist_ok=True)
    for name in ("route", "ipv6_route"):
        (root / "proc/net" / name).write_text("\n".join(lines))
    assert network.connected() in (True, False)


@fuzz
@given(st.text(max_size=200), st.lists(st.text(max_size=40), max_size=3))
def test_usb_rules_of_the_owner(old, attached):
    rules = usbguard.merge(old, attached, None)
    assert rules[-1] == usbguard.LATER and set(attached) <= {*rules, ""} and len(rules) == len(set(rules))


@fuzz
@given(st.binary(max_size=60), st.binary(max_size=20))
@example(name="Клавиатура\u202e".encode(), serial=b'"')
def test_usb_devices_as_usbguard_writes_them(name, serial):
    """Whatever a device calls itself: it is read, its rule says the same of it, its name brings nothing."""
    texts = [
        "".join(
            "\\" + chr(one) if one in b'"\\' else chr(one) if 32 <= one < 127 else f"\\x{one:02x}"
            for one in text
        )
        for text in (serial, name)
    ]
    what = 'id 0781:5581 serial "{}" name "{}"'.format(*texts)
    line = f'7: block {what} hash "x=" parent-hash "y=" via-port "1-2" with-interface 08:06:50'
    found = blocked.parse_device(f'{line} with-connect-type "hotplug"')
    assert found.rule == f"allow {what} with-interface 08:06:50" and found.port == "1-2"
    assert blocked.parse_device(found.rule).rule == found.rule
    assert found.description.isprintable() and not set(found.description) & set("`<>;\\\u202e")


@fuzz
@given(st.integers(-(10**12), 10**12), st.booleans(), st.sampled_from(list(preflight.TABLE)))
def test_the_sentences_of_every_finding_can_be_filled(number, now, name):
    details = dict.fromkeys(
        ("clock", "known", "title", "when", "percent", "free", "program", "reserved", "need"), number
    )
    stop, asks, warnings = preflight.judge([preflight.found(name, **details)], now, False)
    assert bool(stop) + len(warnings) == 1 and not asks


@fuzz
@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=99999)))
def test_every_age_has_words(late):
    assert statement.stale_words(late).isprintable() and datetime.now(UTC)
