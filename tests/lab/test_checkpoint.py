"""Checkpoints: what is saved comes back, damage is seen, and nobody's checkpoint goes while it is in use."""

import os

import pytest

from veilor.lab.checkpoint import Checkpoints, NoCheckpoint
from veilor.lab.verdict import LabFault

KEYS = [f"{number:064x}"[::-1] for number in range(1, 6)]
MiB = 1 << 20


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    (folder / "keys").mkdir(parents=True)
    (folder / "keys/a.key").write_text("secret")
    (folder / "keys/a.key").chmod(0o600)
    with (folder / "disk").open("wb") as disk:
        disk.seek(32 * MiB)
        disk.write(bytes(32 * MiB))
        disk.write(b"end")
    return folder


@pytest.fixture
def said():
    return []


@pytest.fixture
def new(tmp_path, said):
    made = []

    def new(scenario="life", keep=2):
        made.append(Checkpoints(tmp_path / "store", scenario, keep, said.append))
        return made[-1]

    yield new
    for store in made:
        store.close()


def files(state):
    return {path.name: path for path in state.iterdir()}


def test_what_was_saved_comes_back_with_modes_and_holes(new, state, tmp_path):
    store = new()
    store.save("install", KEYS[0], files(state), {"boots": 1})
    store.restore("install", KEYS[0], tmp_path / "back")
    assert (tmp_path / "back/keys/a.key").read_text() == "secret"
    assert (tmp_path / "back/keys/a.key").stat().st_mode & 0o777 == 0o600
    disk = (tmp_path / "back/disk").stat()
    assert disk.st_size == 64 * MiB + 3 and disk.st_blocks * 512 < MiB
    assert not (tmp_path / "back/manifest.json").exists()
    assert store.meta(store.get("install", KEYS[0])) == {"boots": 1}


def test_another_name_key_or_scenario_is_not_found(new, state):
    new().save("install", KEYS[0], files(state))
    assert new().find("install", KEYS[0])
    assert new().find("install", KEYS[1]) is None
    assert new().find("update", KEYS[0]) is None
    assert new("other").find("install", KEYS[0]) is None
    with pytest.raises(NoCheckpoint):
        new().get("install", KEYS[1])


@pytest.mark.parametrize(
    "harm",
    [
        lambda entry: os.truncate(entry / "disk", 64 * MiB),
        lambda entry: (entry / "keys/a.key").unlink(),
        lambda entry: (entry / "keys/a.key").write_text("SECRET"),
        lambda entry: (entry / "keys/more").write_text(""),
        lambda entry: (entry / "manifest.json").unlink(),
    ],
)
def test_a_damaged_one_is_removed_with_a_word(new, state, said, harm):
    entry = new().save("install", KEYS[0], files(state))
    harm(entry)
    assert new().find("install", KEYS[0]) is None
    assert not entry.exists()
    assert len(said) == 1 and "install" in said[0]


def test_the_latest_of_each_name_stay(new, state):
    for key in KEYS:
        store = new()
        store.save("install", key, files(state))
        store.save("update", key, {})
        store.close()
    store = new()
    assert [bool(store.find("install", key)) for key in KEYS] == [False, False, False, True, True]
    assert [bool(store.find("update", key)) for key in KEYS] == [False, False, False, True, True]


def test_pruning_spares_what_another_rehearsal_holds(new, state):
    mine, other = new(keep=1), new(keep=1)
    mine.save("install", KEYS[0], files(state))
    other.save("install", KEYS[1], {})
    other.save("install", KEYS[2], {})
    assert mine.find("install", KEYS[0])
    mine.close()
    third = new(keep=1)
    third.save("install", KEYS[3], {})
    assert third.find("install", KEYS[0]) is None


def test_saving_again_replaces_it_unless_another_rehearsal_holds_it(new, state):
    mine, other = new(), new()
    mine.save("install", KEYS[0], files(state), {"try": 1})
    mine.save("install", KEYS[0], files(state), {"try": 2})
    assert mine.meta(mine.get("install", KEYS[0])) == {"try": 2}
    entry = other.save("install", KEYS[0], {}, {"try": 3})
    assert other.meta(entry) == {"try": 2}
    mine.close()
    other.save("install", KEYS[0], {}, {"try": 4})
    assert other.meta(entry) == {"try": 4}


def test_a_failed_copy_leaves_nothing_and_says_why(new, state, tmp_path):
    store = new()
    with pytest.raises(LabFault, match="nowhere.*No such file.*GB free"):
        store.save("install", KEYS[0], {**files(state), "x": tmp_path / "nowhere"})
    assert [p.name for p in (tmp_path / "store/life").iterdir()] == [".locks"]
    assert store.find("install", KEYS[0]) is None


def test_what_a_killed_run_left_is_swept(new, state, tmp_path):
    left = tmp_path / "store/life/.tmp-1-x"
    left.mkdir(parents=True)
    new().save("install", KEYS[0], {})
    assert not left.exists()
