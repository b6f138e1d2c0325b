"""The shipped kickstart keeps every rule, and each rule notices the change that would break it."""

from __future__ import annotations

from pathlib import Path

import pytest

from veilor.build import kickstart
from veilor.build.errors import BuildError

SHIPPED = Path(__file__).resolve().parents[2] / "kickstart/install.ks"
ROOT_LINE = "part / --fstype=ext4"


@pytest.fixture(scope="module")
def text():
    return kickstart.flatten(SHIPPED)


def test_the_shipped_one_is_fine(text):
    assert kickstart.check(text) == []


def test_flattened_means_one_file(text):
    assert [line for line in text.splitlines() if line.startswith("%include")] == [
        f"%include {kickstart.TARGET}",
        "%include /tmp/veilor-guided.ks",
    ]
    for snippet in sorted((SHIPPED.parent / "snippets").iterdir()):
        assert snippet.is_dir() or snippet.read_text().rstrip("\n") in text


MUTATIONS = [  # (the check that has to notice, what is replaced, by what)
    ("parser", "reqpart\n", "reqpart --nonsense\n"),
    ("parser", "poweroff\n", "poweroff\nbootc --source-imgref=registry:x --stateroot=veilor\n"),
    ("clears_no_other_disk", "reqpart\n", "clearpart --all --initlabel\nreqpart\n"),
    ("clears_no_other_disk", "reqpart\n", "zerombr\nreqpart\n"),
    ("clears_no_other_disk", "clearpart --list=", "clearpart --all --drives="),
    ("asks_for_the_disk", "%include /tmp/veilor-target.ks\n", ""),
    (
        "asks_for_the_disk",
        "--erroronfail --log=/tmp/veilor-choose-disk.log",
        "--log=/tmp/veilor-choose-disk.log",
    ),
    ("asks_for_the_disk", "Install to which disk? ", "Go on? "),
    ("holds_no_secret", "--grow --encrypted", "--grow --encrypted --passphrase=hunter22"),
    ("holds_no_secret", "rootpw --lock", "rootpw --lock --plaintext hunter22"),
    ("encrypts_root", "--grow --encrypted", "--grow"),
    ("encrypts_root", "%include /tmp/veilor-guided.ks\n", ""),
    ("encrypts_root", "cat > /tmp/veilor-guided.ks", "cat > /tmp/lost.ks"),
    ("encrypts_root", "--luks-version=luks2", "--luks-version=luks1"),
    ("encrypts_root", "--pbkdf=argon2id --pbkdf-memory=1048576", "--pbkdf=pbkdf2"),
    ("encrypts_root", "--pbkdf-memory=1048576", "--pbkdf-memory=65536"),
    ("encrypts_root", ROOT_LINE, "part /var --fstype=ext4"),
    ("encrypts_the_rest", "reqpart\n", "reqpart\npart /home --fstype=ext4 --size=1000\n"),
    ("has_room_to_boot", "--size=2048", "--size=1024"),
    ("has_room_to_boot", "reqpart\n", "\n"),
    ("deploys_from_the_medium", "--transport=oci", "--transport=registry"),
    ("deploys_from_the_medium", "--url=/run/install/repo/container", "--url=/somewhere"),
    (
        "leaves_the_origin",
        "exec /usr/bin/python3",
        "bootc switch --mutate-in-place x; exec /usr/bin/python3",
    ),
    ("completes_bootc", '"bootc", "install", "ensure-completion"', '"true"'),
    ("completes_bootc", "--erroronfail --log=/tmp/veilor-complete.log", "--log=/tmp/veilor-complete.log"),
    ("puts_settings_back", '"as-shipped", "--put-back"', '"as-shipped"'),
    ("puts_settings_back", "# Last, so that", "%post\ntouch /etc/x\n%end\n# Last, so that"),
    ("judges_the_room", "%pre-install", "%pre"),
    ("judges_the_room", "statvfs", "stat"),
    ("leaves_the_firewall", "firewall --use-system-defaults\n", ""),
    ("leaves_the_firewall", "firewall --use-system-defaults", "firewall --enabled"),
    ("starts_graphically", "xconfig --startxonboot\n", ""),
    ("ends_in_a_shutdown", "cat > /run/veilor-install/ending.py", "cat > /run/veilor-install/lost.py"),
    ("ends_in_a_shutdown", '"poweroff"', '"status"'),
    ("ends_in_a_shutdown", "return ending.end(", "return print("),
    ("refuses_plain_root", "luksDump", "isLuks"),
    (
        "refuses_plain_root",
        "--erroronfail --log=/tmp/veilor-require-luks.log",
        "--log=/tmp/veilor-require-luks.log",
    ),
    ("keeps_logs", "%onerror --interpreter=/bin/sh", "%pre-install --interpreter=/bin/sh"),
    ("keeps_logs", '"log/veilor-install"', '"log/lost"'),
    ("keeps_logs", "cat > /run/veilor-install/keep_logs.py", "cat > /tmp/lost.py"),
    ("locks_root", "rootpw --lock\n", ""),
    ("locks_root", "poweroff\n", "user --name=me\npoweroff\n"),
    ("says_no_display_mode", "poweroff\n", "text\npoweroff\n"),
    ("says_no_display_mode", "poweroff\n", "graphical\npoweroff\n"),
    ("ends_by_itself", "\npoweroff\n", "\n"),
    ("has_no_swap", "reqpart\n", "reqpart\npart swap --fstype=swap --size=1000\n"),
    ("asks_for_the_language", "reqpart\n", "lang en_US.UTF-8\nreqpart\n"),
    ("asks_for_the_language", "reqpart\n", "keyboard --vckeymap=us\nreqpart\n"),
    ("offers_the_key", "mokutil", "nokutil"),
    ("offers_the_key", "Have it trusted", "Go on"),
    ("leaves_notes", "/boot/veilor-recovery.txt", "/tmp/veilor-recovery.txt"),
]


@pytest.mark.parametrize(
    ("name", "old", "new"), MUTATIONS, ids=[f"{n}-{m[0]}" for n, m in enumerate(MUTATIONS)]
)
def test_the_check_notices(name, old, new, text):
    assert old in text, "the mutation has nothing to change any more"
    spoiled = text.replace(old, new, -1 if name in ("offers_the_key", "ends_in_a_shutdown") else 1)
    found = [line.split(":")[0] for line in kickstart.check(spoiled)]
    assert name in found


@pytest.fixture(scope="module")
def fallback():
    return kickstart.flatten(SHIPPED.with_name("veilor-os.ks"))


def test_the_mutable_fallback_keeps_the_rules_that_it_can(fallback):
    assert kickstart.check(fallback, kickstart.FALLBACK) == []
    missed = [line.split(":")[0] for line in kickstart.check(fallback)]
    assert missed == [one.__name__ for one in kickstart.OF_THE_IMAGE]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        one
        for one in MUTATIONS
        if one[0]
        in {
            "asks_for_the_disk",
            "encrypts_root",
            "refuses_plain_root",
            "keeps_logs",
            "has_no_swap",
            "holds_no_secret",
            "starts_graphically",
            "ends_in_a_shutdown",
        }
    ],
)
def test_the_check_notices_in_the_fallback_too(name, old, new, fallback):
    assert old in fallback, "the mutation has nothing to change any more"
    assert name in [
        line.split(":")[0] for line in kickstart.check(fallback.replace(old, new), kickstart.FALLBACK)
    ]


def test_every_check_has_a_mutation():
    assert {one.__name__ for one in kickstart.CHECKS} <= {name for name, _, _ in MUTATIONS}


def test_a_missing_snippet_is_one_line(tmp_path):
    (tmp_path / "a.ks").write_text("%pre\n%include snippets/none.py\n%end\n")
    with pytest.raises(BuildError, match="none.py can't be read"):
        kickstart.flatten(tmp_path / "a.ks")


def test_a_snippet_must_not_end_its_section(tmp_path):
    (tmp_path / "s.py").write_text("print('''\n%end\n''')\n")
    (tmp_path / "a.ks").write_text("%pre\n%include s.py\n%end\n")
    with pytest.raises(BuildError, match="begins with %"):
        kickstart.flatten(tmp_path / "a.ks")


def test_a_bad_kickstart_goes_onto_no_medium(tmp_path):
    (tmp_path / "a.ks").write_text("text\n")
    with pytest.raises(BuildError, match="asks_for_the_disk"):
        kickstart.flatten_kickstart(tmp_path / "a.ks")
