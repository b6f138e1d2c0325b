"""Which disks are offered, and what it takes to have one erased."""

from __future__ import annotations

import json

import choose_disk as choosing
import ending
import pytest

GiB = choosing.GiB
EMPTY = b"\0" * 4096


def disk(name, size=40 * GiB, *children, **more):
    return {
        "name": name,
        "path": f"/dev/{name}",
        "type": "disk",
        "size": size,
        "ro": False,
        "fstype": None,
        "label": None,
        "pttype": None,
        "mountpoints": [None],
        "model": None,
        "serial": None,
        "children": list(children),
    } | more


def part(name, **more):
    return disk(name, GiB, type="part") | more


MEDIUM = disk(
    "vda",
    GiB,
    part("vda1", fstype="iso9660", label="Fedora-E-dvd-x86_64-44"),
    part("vda2"),
    ro=True,
    pttype="gpt",
)
CMDLINE = (
    "BOOT_IMAGE=x inst.stage2=hd:LABEL=Fedora-E-dvd-x86_64-44 "
    "inst.ks=hd:LABEL=Fedora-E-dvd-x86_64-44:/ks.cfg quiet"
)
OTHER_LABEL = "inst.ks=hd:LABEL=MY\\x20MEDIUM:/ks.cfg"

LEFT_OUT = [
    (MEDIUM | {"ro": False, "size": 64 * GiB}, CMDLINE, "the installation medium"),
    (disk("sda", label="MY MEDIUM", fstype="iso9660"), OTHER_LABEL, "the installation medium"),
    (disk("sda", label="LIVE"), "root=live:CDLABEL=LIVE rd.live.image", "the installation medium"),
    (disk("sda", 64 * GiB, part("sda1", mountpoints=["/run/install/repo"])), "", "the installation medium"),
    (disk("sda", 64 * GiB, mountpoints=["/run/initramfs/live"]), "", "the installation medium"),
    (disk("sda", 64 * GiB, part("sda1"), part("sda2", mountpoints=[None, "/home"])), "", "in use: /home"),
    (disk("sda", 64 * GiB, part("sda1", mountpoints=["[SWAP]"])), "", "in use: [SWAP]"),
    (
        disk("sda", 64 * GiB, part("sda1") | {"children": [part("root", type="crypt", mountpoints=["/x"])]}),
        "",
        "in use: /x",
    ),
    (disk("sda", ro=True), "", "read-only"),
    (disk("sda", choosing.MINIMUM - 1), "", "smaller than 12 GiB"),
]


@pytest.mark.parametrize(("one", "cmdline", "why"), LEFT_OUT)
def test_left_out(one, cmdline, why):
    assert choosing.sort_disks([one], cmdline) == ([], [(one["name"], why)])


@pytest.mark.parametrize(
    "one",
    [
        disk("sda", choosing.MINIMUM),
        disk("nvme0n1", 40 * GiB, part("nvme0n1p1", label="Fedora")),
        disk("sdb", label="ANOTHER", fstype="iso9660"),
    ],
)
def test_offered(one):
    assert choosing.sort_disks([one], CMDLINE) == ([one], [])


@pytest.mark.parametrize(
    "one", [disk("zram0"), disk("loop0", type="loop"), disk("sr0", type="rom"), disk("sdc", 0), disk("fd0")]
)
def test_no_disk_at_all(one):
    assert choosing.sort_disks([one], CMDLINE) == ([], [])


def talk(disks, *typed, start=EMPTY, keymaps=("us", "de"), cmdline=CMDLINE, **more):
    """Choose with TYPED lines; (disk's name, keymap, language), prompts, what was said."""
    lines, prompts, said = list(typed), [], []

    def ask(prompt):
        prompts.append(prompt)
        return lines.pop(0) + "\n" if lines else None

    found, *chosen = choosing.choose(
        disks, cmdline, ask, said.append, lambda one: start, keymaps.__contains__, **more
    )
    return (found and found["name"], *chosen), prompts, "\n".join(said)


def test_an_empty_disk_needs_its_number_only():
    chosen, prompts, said = talk([MEDIUM, disk("vdb", serial="disk1"), disk("vdc")], "1")
    assert chosen == ("vdb", "us", "en_US.UTF-8") and prompts == ["Install to which disk? "]
    assert "1) vdb  40.0 GiB  empty  (disk1)" in said and "vda is left out: the installation medium" in said


FULL = [
    disk("sda", 40 * GiB, part("sda1"), pttype="gpt"),
    disk("sda", fstype="crypto_LUKS"),
    disk("sda", pttype="dos"),
]


@pytest.mark.parametrize("one", FULL)
def test_a_disk_with_something_on_it_needs_its_name_too(one):
    chosen, prompts, _ = talk([one, disk("sdb")], "1", "sda")
    assert chosen[0] == "sda" and "will be lost" in prompts[1] and "Type sda" in prompts[1]


@pytest.mark.parametrize("wrong", ["", "yes", "sdb", "SDA", "sda1", "1"])
def test_another_word_erases_nothing(wrong):
    chosen, _, said = talk([FULL[0], disk("sdb")], "1", wrong, "2")
    assert chosen[0] == "sdb" and "nothing was changed" in said


def test_data_that_nothing_knows_counts_as_something():
    chosen, prompts, said = talk([disk("sda"), disk("sdb")], "1", "sda", start=EMPTY + b"somebody's")
    assert chosen[0] == "sda" and len(prompts) == 2 and "unknown data" in said


@pytest.mark.parametrize("typed", ["0", "2", "-1", "sdb", "", "1 ", "²", "1; rm"])
def test_odd_answers_are_asked_again_or_mean_what_they_say(typed):
    chosen, prompts, _ = talk([disk("sda")], typed, "1")
    assert chosen[0] == "sda" and len(prompts) == (1 if typed == "1 " else 2)


@pytest.mark.parametrize("typed", [["quit"], [], ["7"], ["1"]])
def test_no_answer_means_no_disk(typed):
    with pytest.raises(choosing.NoChoice):
        talk([FULL[0], disk("sdb", fstype="ext4")], *typed, "quit") if typed != ["1"] else talk(
            FULL[:1], "1", "no", "quit"
        )


def test_no_disk_says_what_to_do():
    with pytest.raises(choosing.NoChoice, match="attach one of at least 12 GiB"):
        talk([MEDIUM], cmdline=f"{CMDLINE} inst.text")


def test_a_disk_without_room_for_the_image_is_not_offered():
    """The installer itself asks for 500 MB, whatever the image needs."""
    chosen, _, said = talk([disk("sda", 20 * GiB), disk("sdb", 64 * GiB)], "1", room=26 * GiB + 1)
    assert chosen[0] == "sdb" and "sda is left out: smaller than 27 GiB" in said


def oci(folder, *sizes):
    """An OCI layout in FOLDER with layers of SIZES, in bytes as they are packed."""
    layers = [{"digest": f"sha256:{number:064x}", "size": size} for number, size in enumerate(sizes)]
    blobs = {f"{number:064x}": b"layer" for number, _ in enumerate(sizes)}
    blobs["a" * 64] = json.dumps({"layers": layers}).encode()
    (folder / "blobs/sha256").mkdir(parents=True)
    for name, content in blobs.items():
        (folder / "blobs/sha256" / name).write_bytes(content)
    (folder / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:" + "a" * 64}]}))
    return folder


def test_room_is_judged_by_the_image_on_the_medium(tmp_path):
    def needed(image):
        return choosing.needed_room(choosing.unpacked(str(image)))

    assert needed(tmp_path / "none") == 12 * GiB  # a system of packages
    assert needed(oci(tmp_path / "small", 1000, 2000)) == 12 * GiB
    large = needed(oci(tmp_path / "large", 3 * GiB, GiB // 2))
    assert 24 * GiB < large < 32 * GiB  # docs/INSTALL.md asks for a disk of 32 GB


@pytest.mark.parametrize("spoilt", ["index.json", "blobs/sha256/" + "a" * 64, "blobs/sha256/" + "0" * 64])
def test_a_medium_without_a_whole_image_erases_nothing(spoilt, tmp_path):
    (oci(tmp_path / "image", GiB) / spoilt).unlink()
    with pytest.raises(choosing.NoChoice, match="write the medium anew"):
        choosing.unpacked(str(tmp_path / "image"))


def test_keyboard_layout():
    chosen, _, said = talk([disk("sda")], "keyboard de", "1")
    assert chosen[:2] == ("sda", "de") and "layout is de" in said
    chosen, _, said = talk([disk("sda")], "keyboard xx", "1")
    assert chosen[:2] == ("sda", "us") and "no keyboard layout xx" in said


@pytest.mark.parametrize("name", ["", "a b", "../x", "de;reboot", "-h" * 30])
def test_keyboard_names_are_harmless(name, monkeypatch):
    monkeypatch.setattr(choosing.subprocess, "run", lambda *a, **k: pytest.fail("started"))
    assert not choosing.use_keymap(name)


@pytest.mark.parametrize(("typed", "locale"), [("de_DE", "de_DE.UTF-8"), ("pt_BR.UTF-8", "pt_BR.UTF-8")])
def test_language(typed, locale):
    chosen, prompts, said = talk([disk("sda")], f"language {typed}", "1")
    assert chosen == ("sda", "us", locale) and f"The language is {locale}." in said and len(prompts) == 2


@pytest.mark.parametrize("typed", ["german", "de", "de_DE; rm", "../x", "DE_de"])
def test_what_is_no_language_changes_nothing(typed):
    chosen, _, said = talk([disk("sda")], f"language {typed}", "1")
    assert chosen[2] == "en_US.UTF-8" and "typed like de_DE" in said


def test_partitions_by_hand_say_nothing_of_any_disk():
    chosen, prompts, said = talk([FULL[0]], "keyboard de", "custom", cmdline=f"{CMDLINE} inst.graphical")
    assert chosen == (None, "de", "en_US.UTF-8") and len(prompts) == 2 and "Encrypt there (LUKS2)" in said
    assert choosing.target_text(None, "de", "en_US.UTF-8") == "keyboard --vckeymap=de\nlang en_US.UTF-8\n"


def test_partitions_by_hand_are_for_the_windows_alone():
    """As text, the installer's own storage page has no encryption."""
    chosen, prompts, said = talk([disk("sda")], "custom", "1", cmdline=f"{CMDLINE} inst.text")
    assert chosen[0] == "sda" and len(prompts) == 2
    assert "or `custom`" not in said and "choose its second entry" in said
    assert "or `custom`" in talk([disk("sda")], "1", cmdline=f"{CMDLINE} inst.graphical")[2]


@pytest.mark.parametrize(
    ("cmdline", "windows"),
    [
        ("quiet", True),
        ("inst.text quiet", False),
        ("inst.graphical", True),
        ("inst.text inst.graphical", True),
        ("inst.graphical inst.text", False),
        ("inst.textual", True),
    ],
)
def test_of_the_display_modes_the_last_counts(cmdline, windows):
    assert ending.windows_open(cmdline) is windows


class Person:
    """In the terminal's place: TYPED lines, and what was shown to the person alone."""

    def __init__(self, *typed):
        self.typed, self.shown, self.writing = list(typed), [], True

    def say(self, text):
        self.shown.append(text)

    def ask(self, prompt, patience=None):
        self.shown.append(prompt)
        return self.typed.pop(0) + "\n" if self.typed else None


@pytest.fixture
def installer(monkeypatch, tmp_path):
    """What the script's `main` writes, with an empty disk to choose; the folder."""
    for name in ("TARGET", "GUIDED", "MOK_CODE", "SECURE_BOOT", "IMAGE", "ROOM"):
        monkeypatch.setattr(choosing, name, str(tmp_path / name))
    monkeypatch.setattr(choosing, "sort_disks", lambda *_: ([disk("sda", path="/dev/zero")], []))
    (tmp_path / "GUIDED").write_text("part /\n")
    monkeypatch.setattr(ending, "end", lambda why, *_, **__: pytest.fail(str(why)))
    return tmp_path


def go(monkeypatch, *typed):
    person = Person(*typed)
    monkeypatch.setattr(ending, "Terminal", lambda: person)
    assert choosing.main() == 0
    return person


@pytest.mark.parametrize(("typed", "layout"), [("1", "part /\n"), ("custom", "")])
def test_the_installers_windows_take_the_place_of_our_layout(typed, layout, monkeypatch, installer):
    go(monkeypatch, typed)
    assert (installer / "GUIDED").read_text() == layout
    assert ("sda" in (installer / "TARGET").read_text()) == (typed == "1")


def test_the_kernels_key_is_asked_for_before_anything_is_written(monkeypatch, installer, capsys):
    (installer / "SECURE_BOOT").write_bytes(b"\x06\0\0\0\1")
    oci(installer / "IMAGE", 1000)
    person = go(monkeypatch, "1", "yes", "")
    code = (installer / "MOK_CODE").read_text()
    assert code.isdigit() and len(code) == 8 and f"      {code}" in person.shown
    assert code not in capsys.readouterr().out  # the script's log


@pytest.mark.parametrize("answers", [["no"], [""], ["maybe"], []])
def test_nothing_is_enrolled_unasked(answers, monkeypatch, installer):
    (installer / "SECURE_BOOT").write_bytes(b"\x06\0\0\0\1")
    oci(installer / "IMAGE", 1000)
    person = go(monkeypatch, "1", *answers)
    assert not (installer / "MOK_CODE").exists() and "starts only where" in person.shown[-3]


@pytest.mark.parametrize("variable", [b"\x06\0\0\0\0", b"", None])
def test_without_secure_boot_nobody_is_asked(variable, monkeypatch, installer):
    if variable is not None:
        (installer / "SECURE_BOOT").write_bytes(variable)
    oci(installer / "IMAGE", 1000)
    assert not [line for line in go(monkeypatch, "1").shown if "Secure Boot" in line]


def test_a_system_of_packages_has_fedoras_own_kernel(monkeypatch, installer):
    (installer / "SECURE_BOOT").write_bytes(b"\x06\0\0\0\1")
    assert not [line for line in go(monkeypatch, "1").shown if "Secure Boot" in line]


@pytest.mark.parametrize("argument", ["inst.cmdline", "inst.noninteractive"])
def test_a_mode_that_can_ask_nobody_is_refused_before_anything_else(argument):
    with pytest.raises(choosing.NoChoice, match="passphrase"):
        talk([disk("sda")], "1", cmdline=f"{CMDLINE} {argument}")


def test_target_names_everything_that_goes_and_nothing_else():
    text = choosing.target_text(
        disk("nvme0n1", 40 * GiB, part("nvme0n1p1"), part("nvme0n1p2"), pttype="dos"), "de", "de_DE.UTF-8"
    )
    assert text.splitlines() == [
        "ignoredisk --only-use=nvme0n1",
        "clearpart --list=nvme0n1,nvme0n1p1,nvme0n1p2 --drives=nvme0n1 --initlabel --disklabel=gpt",
        "keyboard --vckeymap=de",
        "lang de_DE.UTF-8",
    ]
    assert choosing.target_text(disk("vdb"), "us", "en_US.UTF-8").splitlines()[1] == "zerombr"


@pytest.mark.parametrize("typed", [["quit"], []])
def test_without_a_choice_the_machine_goes_off(typed, monkeypatch, installer):
    """Anaconda itself would show a traceback and stay on."""
    ended, person = [], Person(*typed)
    monkeypatch.setattr(ending, "Terminal", lambda: person)
    monkeypatch.setattr(ending, "end", lambda why, terminal: ended.append((str(why), terminal)) or 1)
    assert choosing.main() == 1 and ended == [
        ("no disk was chosen, nothing was changed; start again when you like", person)
    ]
    assert not (installer / "TARGET").exists()


def test_without_a_terminal_nothing_is_installed(monkeypatch, installer):
    ended, person = [], Person()
    person.writing = None
    monkeypatch.setattr(ending, "Terminal", lambda: person)
    monkeypatch.setattr(ending, "end", lambda why, terminal: ended.append(str(why)) or 1)
    assert choosing.main() == 1 and "no terminal to ask at" in ended[0]
