"""The bootc front against recordings of bootc 1.16.9: texts, exit codes, progress, and the status afterwards.

Played plays the system underneath (libostree, the registry); it starts from a recording's status_before.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jsonschema
import pytest

HERE = Path(__file__).parent
FRONT = HERE.parents[1] / "stand-ins/bootc"
RECORDINGS = {
    r["case"].partition("-")[0]: r
    for r in map(json.loads, (HERE / "data/recordings.jsonl").read_text().splitlines())
}
BASE = 282468891
# The images of the recordings: a base layer and these (bytes).
LAYERS = {0: [200500], 2: [200688], 3: [12003963, 30009623], 4: [3001343], 6: [60000000], 7: [3001342]}
# What the tag points to, what was pulled of that reference before, and what pruning finds: (images, layers,
# bytes).
SCENES = {
    "01": (),
    "02a": (0, None),
    "02b": (),
    "02c": (3, None),
    "03": (),
    "03a": (),
    "04a": (2, 0),
    "04b": (2, 2),
    "04c": (2, 2),
    "04d": (3, 2),
    "04d2": (3, 2),
    "04e": (3, 2),
    "04f": (3, 3),
    "04g": (4, 3, (0, 2, 42013586)),
    "04h": (4, 4),
    "05a": (7, 6, (0, 1, 60012345)),
    "05b": (),
    "05c": (7, 7),
    "05d": (7, 7),
    "05e": (7, 7),
    "05f": (7, 7),
    "05g": (7, 7),
    "05h": (7, 7),
    "05i": (7, 7),
    "05k": (7, 7),
    "05l": (7, 7),
    "05m": (7, 7),
    "06a": (),
    "06b": (),
    "06c": (),
    "06d": (),
    "06e": (),
    "07a": (),
    "07b": (),
    "07d": (),
    "07e": (),
    "07f": (),
    "07h": (),
    "07i": (),
    "09b": (),
    "09c": (),
    "09d": (7, 7),
    "09e": (7, 7),
    "10b4": (),
    "10f": (),
    "10g": (),
}


@pytest.fixture
def front(monkeypatch, tmp_path):
    """The front's modules, in a world where we are root on an ostree system."""
    monkeypatch.syspath_prepend(str(FRONT))
    for name in ("report", "verbs", "sysroot"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    verbs = importlib.import_module("verbs")
    (tmp_path / "booted").touch()
    monkeypatch.setattr(verbs, "BOOTED", tmp_path / "booted")
    monkeypatch.setattr(verbs, "RUN", str(tmp_path))
    monkeypatch.setattr(verbs.os, "geteuid", lambda: 0)
    yield types.SimpleNamespace(verbs=verbs, report=importlib.import_module("report"))
    for name in ("report", "verbs", "sysroot"):
        sys.modules.pop(name, None)


def known_images() -> dict[str, dict]:
    """Every image that the recordings show, by a number from its version.

    Each is an image of the status document, with the checksum of its commit.
    """
    found = {}
    for recording in RECORDINGS.values():
        for status in filter(None, (recording["before"], recording["after"])):
            parts = status["status"]
            for entry in filter(
                None,
                (parts["staged"], parts["booted"], parts["rollback"], *parts.get("otherDeployments", ())),
            ):
                number = int(entry["image"]["version"][-3]) - (entry["image"]["version"][-3] == "1")
                found[number] = {**entry["image"], "checksum": entry["ostree"]["checksum"]}
    return found


class Played:
    """Plays libostree and ostree-ext.

    Deployments are as in STATUS. TAG is the number of the image that the registry has, PULLED of the one that
    is in the repository, PRUNED what pruning finds, REFUSAL why a pull is refused.
    """

    def __init__(
        self, report, status: dict, tag=None, pulled=None, pruned=(0, 0, 0), refusal: str = ""
    ) -> None:
        self.report, self.refusal, self.pruned, self.known = report, refusal, pruned, known_images()
        self.tag, self.pulled = tag, pulled
        self.layers = {"sha256:base"}
        parts = status["status"]
        self.staged, self.booted, self.rollback = (
            self.entry(parts[name]) for name in ("staged", "booted", "rollback")
        )
        self.others = tuple(self.entry(entry) for entry in parts.get("otherDeployments", ()))
        self.queued = parts["rollbackQueued"]

    def made(self, number: int, origin: str):
        """Image NUMBER under the reference ORIGIN."""
        known = self.known[number]
        layers = [{"digest": "sha256:base", "size": BASE}]
        layers += [
            {"digest": f"sha256:{number}{index}".ljust(40, "0"), "size": size}
            for index, size in enumerate(LAYERS[number])
        ]
        config = {
            "created": known["timestamp"],
            "architecture": "amd64",
            "config": {"Labels": {"org.opencontainers.image.version": known["version"]}},
        }
        return self.report.Image(origin, known["imageDigest"], config, {"layers": layers})

    def numbered(self, digest: str) -> int:
        return next(number for number, known in self.known.items() if known["imageDigest"] == digest)

    def entry(self, shown: dict | None):
        """The deployment that status shows as SHOWN."""
        if shown is None:
            return None
        reference = shown["image"]["image"]
        signed = (
            "ostree-image-signed:docker://"
            if reference.get("signature")
            else f"ostree-unverified-image:{reference['transport']}:"
        )
        origin = signed + reference["image"]
        cached = shown["cachedUpdate"] and self.made(
            self.numbered(shown["cachedUpdate"]["imageDigest"]), origin
        )
        image = self.made(self.numbered(shown["image"]["imageDigest"]), origin)
        ids = [shown["ostree"][key] for key in ("checksum", "deploySerial", "stateroot")]
        return self.report.Deployment(*ids, image, cached, shown["pinned"], shown["downloadOnly"])

    def deployments(self):
        return self.report.Deployments(self.staged, self.booted, self.rollback, self.others, self.queued)

    def resolve_commit(self, origin: str):
        return None if self.pulled is None else self.known[self.pulled]["checksum"]

    def read_images(self, commit: str, origin: str):
        return self.made(
            next(n for n, known in self.known.items() if known["checksum"] == commit), origin
        ), None

    def pending_image(self, origin: str):
        return None if self.pulled is None else self.made(self.tag, origin)

    def has_layer(self, digest: str) -> bool:
        return digest in self.layers

    def pull(self, origin, manifest, on_line, on_idle) -> str:
        if self.refusal:
            raise self.report.Failure(self.refusal)
        commit = self.known[self.tag]["checksum"]
        if self.tag == self.pulled:
            on_line(f"No changes in {origin} => {commit}")
            return commit
        new = self.made(self.tag, origin)
        if self.pulled is not None:  # ostree-ext notes what it saw on the commit pulled before
            old = self.resolve_commit(origin)
            for name in ("staged", "booted", "rollback"):
                if (entry := getattr(self, name)) and entry.checksum == old:
                    setattr(self, name, dataclasses.replace(entry, cached_update=new))
        if manifest:
            Path(manifest).write_text("{}")
            return ""
        needed = {digest: size for digest, size in new.layers.items() if digest not in self.layers}
        if self.tag == 0:  # the first image came with the installation: all of it is there
            needed = {}
        if needed:
            size = self.report.format_size(sum(needed.values()))
            on_line(
                f"layers already present: {len(new.layers) - len(needed)}; layers needed: {len(needed)} "
                f"({size})"
            )
        for digest in needed:
            on_idle()
            self.layers.add(digest)
        on_idle()
        self.pulled = self.tag
        on_line(f"Wrote: {origin} => {commit}")
        return commit

    def stage(self, image, commit: str, download_only: bool) -> None:
        self.staged = self.report.Deployment(commit, 0, "veilor", image, download_only=download_only)

    def toggle_download_only(self, staged) -> None:
        assert staged is self.staged
        self.staged = dataclasses.replace(staged, download_only=not staged.download_only)

    def set_boot_order(self, order) -> None:
        assert sorted(map(id, order)) == sorted(map(id, (self.booted, self.rollback, *self.others)))
        assert tuple(order[2:]) == self.others
        self.staged, self.queued = None, order[0] is self.rollback

    def prune(self):
        return self.pruned


def without_staged_serial(status: dict) -> dict:
    """STATUS without the serial of what is staged.

    It counts the folders of earlier tries, which Played does not have.
    """
    status = json.loads(json.dumps(status))
    if status["status"]["staged"]:
        del status["status"]["staged"]["ostree"]["deploySerial"]
    return status


def play(front, monkeypatch, case: str):
    """Run the front as RECORDING did; its exit code, the system afterwards and the progress lines."""
    recording, scene = RECORDINGS[case], SCENES[case]
    refusal = ""
    if case.startswith("07"):
        refusal = re.sub(
            r"^error: (Upgrading: |Switching: Switching \(ostree\): )", "", recording["stderr"]
        ).strip()
    start = recording["before"] or RECORDINGS["01"]["after"]
    system = Played(front.report, start, *scene, refusal=refusal)
    monkeypatch.setitem(sys.modules, "sysroot", types.SimpleNamespace(Host=lambda: system))
    argv, events = list(recording["argv"][1:]), []
    reader = None
    if "--progress-fd" in argv and case != "10g":
        reader, writer = os.pipe()
        argv[argv.index("--progress-fd") + 1] = str(writer)
    code = front.verbs.main(argv)
    if reader is not None:
        os.close(writer)
        with os.fdopen(reader) as lines:
            events = [json.loads(line) for line in lines]
    return code, system, events


@pytest.mark.parametrize("case", SCENES)
def test_does_and_says_what_bootc_did(front, monkeypatch, capsys, case):
    recording = RECORDINGS[case]
    code, system, _ = play(front, monkeypatch, case)
    said = capsys.readouterr()
    assert code == recording["exit"]
    if "status" in recording["argv"] and code == 0:
        assert json.loads(said.out) == json.loads(recording["stdout"])
    else:
        assert said.out == recording["stdout"]
    if "rollback" not in recording["argv"]:  # there, GRUB's own words were recorded
        seconds = re.compile(r"\d+ seconds")
        assert seconds.sub("", said.err) == seconds.sub("", recording["stderr"])
    after = front.report.status_document(system.deployments())
    jsonschema.validate(after, json.loads((HERE / "data/host-v1.schema.json").read_text()))
    if recording["after"]:
        assert without_staged_serial(after) == without_staged_serial(recording["after"])


@pytest.mark.parametrize("case", [case for case in SCENES if "--progress-fd" in RECORDINGS[case]["argv"]])
def test_progress_is_bootcs(front, monkeypatch, case):
    recorded = RECORDINGS[case]["progress"] or []
    _, _, events = play(front, monkeypatch, case)
    schema = json.loads((HERE / "data/progress-v0.schema.json").read_text())
    for event in events:
        jsonschema.validate(event, schema)
    assert bool(events) == bool(recorded), "no line at all when nothing is done, a Start when something is"

    def steps(lines):
        keys = ("task", "id", "description", "steps", "stepsTotal")
        return [  # bootc names a finished clean-up twice
            (
                *(line[key] for key in keys),
                list(dict.fromkeys(tuple(sorted(sub.items())) for sub in line["subtasks"])),
            )
            for line in lines
            if line["type"] == "ProgressSteps"
        ]

    rest = iter(steps(recorded))
    assert all(step in rest for step in steps(events)), (
        "our steps are among the recorded ones, in their order"
    )
    pulled = [[line for line in lines if line["type"] == "ProgressBytes"] for lines in (events, recorded)]
    if pulled[0]:
        totals = (
            "id",
            "description",
            "bytesTotal",
            "bytesCached",
            "stepsTotal",
            "stepsCached",
            "bytes",
            "steps",
        )
        assert [pulled[0][-1][key] for key in totals] == [pulled[1][-1][key] for key in totals]


@pytest.mark.parametrize("case", ["10a", "10b", "10b3", "10b5"])
def test_wrong_usage_is_refused_before_anything_is_touched(front, capsys, case):
    assert front.verbs.main(RECORDINGS[case]["argv"][1:]) == RECORDINGS[case]["exit"] == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    if case == "10a":
        assert said.err == RECORDINGS[case]["stderr"]


@pytest.mark.parametrize("case", ["10c", "10d", "10e"])
def test_only_root_may(front, monkeypatch, capsys, case):
    monkeypatch.setattr(front.verbs.os, "geteuid", lambda: 65534)
    assert front.verbs.main(RECORDINGS[case]["argv"][1:]) == 1
    assert capsys.readouterr().err == RECORDINGS[case]["stderr"]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["install"],
        ["edit"],
        ["switch", "ghcr.io/veilor/veilor-os:44"],
        ["upgrade", "--apply"],
        ["rollback", "--apply"],
        ["rollback", "now"],
        ["upgrade", "--check", "--download-only"],
        ["status", "--format=yaml"],
        ["upgrade", "--progress-fd"],
        ["upgrade", "--progress-fd", "1"],
        ["switch", "--enforce-container-sigpolicy", "one", "two"],
    ],
)
def test_what_it_does_not_speak_is_a_usage_error(front, capsys, argv):
    assert front.verbs.main(argv) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_version(front, capsys):
    assert front.verbs.main(["--version"]) == 0
    assert capsys.readouterr().out == RECORDINGS["10h"]["stdout"]


def test_a_machine_that_ostree_did_not_boot(front, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(front.verbs, "BOOTED", tmp_path / "no")
    monkeypatch.setitem(sys.modules, "sysroot", types.SimpleNamespace(Host=None))
    assert front.verbs.main(["status"]) == 0
    assert json.loads(capsys.readouterr().out)["status"]["booted"] is None
    assert front.verbs.main(["upgrade"]) == 1


def test_progress_wants_a_pipe_and_survives_its_reader(front, tmp_path):
    with open(tmp_path / "file", "w") as file, pytest.raises(front.report.Failure, match="not a pipe"):
        front.report.ProgressEvents(file.fileno())
    reader, writer = os.pipe()
    os.close(reader)
    front.report.ProgressEvents(writer).write_importing("image", True)
    os.close(writer)


@pytest.mark.parametrize(
    ("options", "old", "new", "merged"),
    [
        (
            "root=UUID=a rd.luks.uuid=b quiet",
            ["quiet", "a=1"],
            ["quiet", "a=2"],
            "root=UUID=a rd.luks.uuid=b quiet a=2",
        ),
        ("root=x a=1 lsm=y", ["a=1"], [], "root=x lsm=y"),
        ("root=x removed-by-hand", ["quiet"], ["quiet"], "root=x removed-by-hand"),
    ],
)
def test_only_the_difference_of_kargs_d_is_applied(front, options, old, new, merged):
    assert front.report.merge_kargs(options.split(), old, new) == merged.split()


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("docker://ghcr.io/veilor/veilor-os:44", "docker_3A__2F__2F_ghcr_2E_io/veilor/veilor-os_3A_44"),
        ("oci:/run/install/a_b", "oci_3A__2F_run/install/a__b"),
        ("sha256:00ff", "sha256_3A_00ff"),
    ],
)
def test_refs_are_written_as_ostree_ext_writes_them(front, name, escaped):
    assert front.report.escape_ref(name) == escaped


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (200688, "200.7 kB"),
        (60000000, "60.0 MB"),
        (1234567890, "1.2 GB"),
    ],
)
def test_sizes_are_glibs(front, size, text):
    assert front.report.format_size(size) == text.replace(" ", "\N{NO-BREAK SPACE}")


def test_unreadable_and_odd_times(front):
    assert front.report.format_utc("2026-01-01T02:00:00+02:00") == "2026-01-01T00:00:00Z"
    assert front.report.format_utc("yesterday") is None


def test_the_launcher_is_runnable(tmp_path):
    """Syntax and mode only: its folder exists in the guest alone."""
    launcher = FRONT / "bootc"
    assert os.access(launcher, os.X_OK)
    subprocess.run(
        [sys.executable, "-I", "-c", f"compile(open({str(launcher)!r}).read(), 'bootc', 'exec')"],
        check=True,
        timeout=30,
    )
