"""Known holes: by Fedora's advisories, ignored for a time with a reason; and nothing seen is no pass."""

from __future__ import annotations

import datetime
import json

import pytest
import yaml

from veilor.build import holes
from veilor.build.errors import BuildError

TODAY = datetime.date(2026, 12, 1)
PACKAGES = "openssl-libs\tFedora Project\nbrave-browser\tBrave Software, Inc.\nkernel\tFedora Project\n"


def answer(*rows: tuple[str, str, str]) -> str:
    """What `dnf5 advisory list --json` prints: libdnf5-cli/output/advisorylist.cpp of 2026-08-21."""
    return json.dumps(
        [
            {"name": name, "type": "security", "severity": level, "nevra": nevra, "buildtime": 1796000000}
            for name, level, nevra in rows
        ]
    )


SEEN = answer(("FEDORA-2026-aaaaaaaaaa", "Moderate", "kernel-6.19.8-200.fc44.x86_64"))
BAD = ("FEDORA-2026-bbbbbbbbbb", "Critical", "openssl-libs-1:3.5.9-1.fc44.x86_64")
LESS = ("FEDORA-2026-cccccccccc", "Important", "kernel-6.19.9-200.fc44.x86_64")


def ignoring(**fields) -> str:
    row = {"id": BAD[0], "why": "not reachable", "until": TODAY, **fields}
    return "[[ignore]]\n" + "".join(
        f"{key} = {value if isinstance(value, datetime.date) else json.dumps(value)}\n"
        for key, value in row.items()
    )


def test_a_critical_hole_with_a_fix_stops_a_release_and_a_lesser_one_is_told():
    text, stops = holes.judge(SEEN, answer(BAD, LESS), PACKAGES, [])
    assert len(stops) == 1 and BAD[0] in stops[0] and BAD[2] in stops[0]
    assert (
        "1 critical, 1 important" in text
        and "Not looked at: 1 RPMs that are not Fedora's (brave-browser)" in text
    )
    text, stops = holes.judge(SEEN, answer(LESS), PACKAGES, [])
    assert not stops and "1 important" in text and "2 RPMs of Fedora's" in text


@pytest.mark.parametrize("known", ["[]", "", "no repositories", '{"a": 1}', '[{"name": "x"}]'])
def test_where_nothing_matched_nothing_is_called_good(known):
    with pytest.raises(BuildError, match=r"nothing is known|no RPM was looked at"):
        holes.judge(known, answer(), PACKAGES, [])
    with pytest.raises(BuildError):
        holes.judge(SEEN, answer(), "", [])


def test_what_is_ignored_is_told_and_ends():
    rows = holes.read_ignored(ignoring(), TODAY)
    text, stops = holes.judge(SEEN, answer(BAD), PACKAGES, rows)
    assert not stops and f"ignored until {TODAY}: {BAD[0]}, not reachable" in text
    with pytest.raises(BuildError, match="has expired"):
        holes.read_ignored(ignoring(), TODAY + datetime.timedelta(days=1))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"until": TODAY + datetime.timedelta(days=91)}, "further than 90 days"),
        ({"why": " "}, "gives no reason"),
        ({"until": "some day"}, "cannot be used"),
        ({"for": "ever"}, "cannot be used"),
    ],
)
def test_an_entry_without_an_end_or_a_reason_is_refused(fields, text):
    with pytest.raises(BuildError, match=text):
        holes.read_ignored(ignoring(**fields), TODAY)


def test_trivy_is_told_the_same_with_its_own_end():
    rows = [*holes.read_ignored(ignoring(), TODAY), holes.Ignored("CVE-2026-1", "a test's library", TODAY)]
    [entry] = yaml.safe_load(holes.trivy_ignores(rows))["vulnerabilities"]
    assert entry == {
        "id": "CVE-2026-1",
        "expired_at": TODAY + datetime.timedelta(days=1),
        "statement": "a test's library",
    }
    assert "'2026" not in holes.trivy_ignores(rows), "trivy reads a date, not a text"


def test_the_file_of_this_repository_can_be_read():
    holes.read_ignored((holes.ROOT / holes.FILE).read_text(), datetime.datetime.now(datetime.UTC).date())
