"""The cache: the same inputs give the same entry, a damaged or half-made one is never handed out."""

import fcntl
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from veilor.lab.cache import UNUSED, artefact, clean_cache, hash_tree, key_of, locked, write_atomic
from veilor.lab.verdict import LabFault


class Maker:
    """Builds a small tree and counts how often."""

    def __init__(self, text="content"):
        self.calls, self.text = 0, text

    def __call__(self, dest):
        self.calls += 1
        (dest / "sub").mkdir(parents=True)
        (dest / "sub/file").write_text(self.text)
        (dest / "link").symlink_to("sub/file")
        dest.with_name("scratch").write_text("left behind")


@pytest.fixture
def said():
    return []


@pytest.fixture
def get(tmp_path, said):
    def get(build, name="thing", inputs=None, **more):
        return artefact(tmp_path / "cache", name, inputs or {"a": 1}, build, print_line=said.append, **more)

    return get


def a_tree(folder):
    (folder / "d").mkdir(parents=True)
    (folder / "d/f").write_text("x")
    (folder / "l").symlink_to("d/f")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda t: (t / "d/f").write_text("y"),
        lambda t: (t / "d/f").chmod(0o755),
        lambda t: (t / "d").chmod(0o700),
        lambda t: (t / "d/f").rename(t / "d/g"),
        lambda t: (t / "empty").mkdir(),
        lambda t: ((t / "l").unlink(), (t / "l").symlink_to("d")),
        lambda t: ((t / "d/f").unlink(), (t / "d/f").mkdir()),
    ],
)
def test_a_trees_hash_moves_with_what_is_in_it(tmp_path, change):
    tree = a_tree(tmp_path / "t")
    before = hash_tree(tree)
    change(tree)
    assert hash_tree(tree) != before


def test_a_trees_hash_is_blind_to_place_and_time(tmp_path):
    one, other = a_tree(tmp_path / "one"), a_tree(tmp_path / "sub/other")
    os.utime(other / "d/f", (1, 1))
    assert hash_tree(one) == hash_tree(other)


def test_bytecode_beside_sources_is_no_input_but_part_of_an_artefact(tmp_path, get):
    tree = a_tree(tmp_path / "t")
    before = hash_tree(tree), key_of("n", {"a": tree})
    (tree / "d/__pycache__").mkdir()
    (tree / "d/__pycache__/f.pyc").write_text("x")
    assert (hash_tree(tree), key_of("n", {"a": tree})) == before
    calls = []

    def build(dest):
        calls.append(1)
        (dest / "__pycache__").mkdir(parents=True)
        (dest / "__pycache__/f").write_text("x")

    path = get(build)
    (path / "__pycache__/f").write_text("y")
    get(build)
    assert len(calls) == 2


def test_a_file_in_two_parts_is_not_two_files(tmp_path):
    for name, files in {"one": {"ab": "c"}, "two": {"a": "bc"}}.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    assert hash_tree(tmp_path / "one") != hash_tree(tmp_path / "two")


def test_keys_depend_on_every_input_and_on_its_kind(tmp_path):
    file = tmp_path / "f"
    file.write_text("1")
    sets = [
        {"a": 1},
        {"a": "1"},
        {"a": b"1"},
        {"b": 1},
        {"a": [1]},
        {"a": {"x": 1}},
        {"a": None},
        {"a": file},
        {"a": str(file)},
    ]
    keys = [key_of("n", inputs) for inputs in sets] + [key_of("m", sets[0])]
    assert len(set(keys)) == len(keys)
    assert key_of("n", {"a": 1, "b": 2}) == key_of("n", {"b": 2, "a": 1})


def test_an_input_without_one_way_to_write_it_is_refused():
    with pytest.raises(TypeError, match="set"):
        key_of("n", {"a": {1, 2}})


def test_made_once_then_taken_without_a_word(get, said):
    maker = Maker()
    path = get(maker)
    assert (path / "sub/file").read_text() == "content"
    assert len(said) == 2 and "made in" in said[1]
    assert get(maker) == path
    assert maker.calls == 1 and len(said) == 2
    assert sorted(p.name for p in path.parent.iterdir()) == ["manifest.json", "thing"]


def test_other_inputs_are_another_entry(get):
    assert get(Maker(), inputs={"a": 1}) != get(Maker(), inputs={"a": 2})


def test_a_file_is_an_artefact_too(get):
    path = get(lambda dest: dest.write_bytes(b"iso"), name="boot.iso")
    assert path.read_bytes() == b"iso"


def rewrite_in_place(file):
    """Same size, same modification time: only the change time tells."""
    info = file.stat()
    time.sleep(0.05)
    file.write_text("CONTENT")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: os.truncate(path / "sub/file", 3),
        lambda path: (path / "sub/file").unlink(),
        lambda path: (path / "more").write_text(""),
        lambda path: (path / "sub/file").write_text("CONTENT"),
        lambda path: rewrite_in_place(path / "sub/file"),
        lambda path: (path / "sub/file").chmod(0o600),
        lambda path: (path.parent / "manifest.json").write_text("{"),
        lambda path: (path.parent / "manifest.json").unlink(),
    ],
)
def test_a_damaged_entry_is_named_and_made_again(get, said, harm):
    maker = Maker()
    path = get(maker)
    time.sleep(0.02)
    harm(path)
    said.clear()
    assert (get(maker) / "sub/file").read_text() == "content"
    assert maker.calls == 2
    assert "damaged" in said[0] and "\n" not in said[0]
    assert not (path / "more").exists()


def test_a_copied_cache_is_whole_though_its_times_moved(get, tmp_path):
    maker = Maker()
    path = get(maker)
    subprocess.run(["cp", "-r", "--preserve=mode", tmp_path / "cache", tmp_path / "copy"], check=True)
    (tmp_path / "cache").rename(tmp_path / "gone")
    (tmp_path / "copy").rename(tmp_path / "cache")
    assert get(maker) == path
    assert maker.calls == 1


def test_a_failing_build_leaves_nothing_and_its_error_goes_through(get, tmp_path):
    def build(dest):
        dest.mkdir()
        raise OSError("no space")

    for error, failing in ((OSError, build), (LabFault, lambda dest: None)):
        with pytest.raises(error):
            get(failing)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [".locks"]


def test_what_nobody_asks_for_any_longer_makes_room_but_nothing_else_does(get, tmp_path):
    for number in range(4):
        get(Maker(), inputs={"a": number})
    get(Maker(), name="thing-else")
    old = time.time() - UNUSED - 60
    entries = {number: get(Maker(), inputs={"a": number}).parent for number in range(4)}
    for number in (0, 1, 2):
        os.utime(entries[number] / "manifest.json", (old, old))
    os.utime(next((tmp_path / "cache").glob("thing-else-*/manifest.json")), (old, old))
    get(Maker(), inputs={"a": 2})  # asked for again, so in use
    with (tmp_path / "cache/.locks" / entries[1].name).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # somebody is making it anew
        get(Maker(), inputs={"a": "new"})
    assert [entries[number].exists() for number in range(4)] == [False, True, True, True]
    assert list((tmp_path / "cache").glob("thing-else-*"))


def test_names_cannot_leave_the_cache(get):
    with pytest.raises(ValueError):
        get(Maker(), name="../up")


def test_what_a_killed_build_left_is_swept_but_not_a_live_ones(get, tmp_path):
    cache = tmp_path / "cache"
    for name in (".tmp-dead-0123~abc", ".tmp-live-0123~abc"):
        (cache / name / "part").mkdir(parents=True)
        (cache / name / "part").chmod(0o500)
    (cache / ".locks").mkdir()
    with (cache / ".locks/live-0123").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        get(Maker())
        assert not (cache / ".tmp-dead-0123~abc").exists()
        assert (cache / ".tmp-live-0123~abc").exists()


def test_a_killed_builder_frees_its_lock(tmp_path):
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from veilor.lab.cache import artefact
        def build(dest):
            dest.write_text("half")
            print("building", flush=True)
            time.sleep(60)
        artefact(Path(sys.argv[1]), "thing", {"a": 1}, build)
    """)
    source = str(Path(sys.modules["veilor.lab.cache"].__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": source},
    )
    child.stdout.readline()
    child.kill()
    child.wait()
    child.stdout.close()
    assert list(tmp_path.glob(".tmp-*"))
    path = artefact(
        tmp_path, "thing", {"a": 1}, lambda dest: dest.write_text("whole"), print_line=lambda line: None
    )
    assert path.read_text() == "whole"
    assert not list(tmp_path.glob(".tmp-*"))


def test_two_at_once_build_once(tmp_path):
    calls, said, paths = [], [], []

    def build(dest):
        calls.append(1)
        time.sleep(0.3)
        dest.write_text("x")

    def run():
        paths.append(artefact(tmp_path, "thing", {"a": 1}, build, print_line=said.append))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(set(paths)) == 1 and len(paths) == 3
    assert any("waiting" in line for line in said)


def test_an_atomic_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "f"
    write_atomic(file, "old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError):
        write_atomic(file, "new")
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_clean_leaves_a_cache_in_use_alone_and_never_takes_what_is_not_the_labs(tmp_path):
    entry = tmp_path / f"tools-{'0a' * 10}"
    entry.mkdir()
    (tmp_path / "letter").write_text("dear")
    pid = tmp_path / "work/rehearsal-x/pid"
    pid.parent.mkdir(parents=True)
    pid.write_text(str(os.getpid()))
    assert "end it first" in clean_cache(tmp_path) and entry.exists()
    pid.unlink()
    with locked(tmp_path / ".locks" / entry.name):
        assert "end it first" in clean_cache(tmp_path) and entry.exists()
    assert not clean_cache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]
