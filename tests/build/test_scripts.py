"""The scripts that the workflows run, with every program beside them replaced by one that notes how it was
called.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from veilor.build.facts import NAMES, fact

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "0" * 64
FACTS = {name: fact(ROOT, name) for name in NAMES}
# How the program in the place of `veilor` answers `veilor product FACT`, which is no step of a script.
PRODUCT = "if [[ $1 == product ]]; then case $2 in {} esac; exit; fi"


class Place:
    """A fresh clone's scripts at ROOT, and a folder of programs before all others."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin, self.log = root / "clone", root / "bin", root / "calls"
        self.facts = dict(FACTS)
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        (self.root / ".venv/bin").mkdir(parents=True)
        self.bin.mkdir()
        python = self.root / ".venv/bin/python"
        python.write_text(
            f'#!/bin/bash\necho "python $*" >>{self.log}\n[[ $* != *judge* ]] || exit ${{RPMS:-0}}\n'
        )
        python.chmod(0o755)

    def program(self, name: str, text: str = "") -> None:
        """A program NAME that notes its call and then does TEXT; `veilor` where the scripts look for it."""
        path = self.root / ".venv/bin/veilor" if name == "veilor" else self.bin / name
        answers = " ".join(f"{fact}) echo {value} ;;" for fact, value in self.facts.items())
        asked = PRODUCT.format(answers) if name == "veilor" else ""
        path.write_text(f'#!/bin/bash\n{asked}\necho "{name} $*" >>{self.log}\n{text}\n')
        path.chmod(0o755)

    def run(self, name: str, *argv: str, **env: str) -> subprocess.CompletedProcess:
        env = {
            "PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.root),
            "TMPDIR": "/tmp",
            **env,
        }
        self.log.unlink(missing_ok=True)
        return subprocess.run(
            [self.root / "scripts" / name, *argv],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def calls(self, name: str = "") -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(name)]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_the_fallback_is_made_in_a_fresh_clone(place):
    place.program("veilor", 'while (($#)); do if [[ $1 == --out ]]; then touch "$2"; fi; shift; done')
    (place.root / "kickstart").mkdir()
    (place.root / "kickstart/veilor-os.ks").touch()
    done = place.run("build-livecd", "medium.iso")
    assert done.returncode == 0, done.stderr
    iso = f"build/livecd/{FACTS['mutable-iso']}"
    assert place.calls() == [f"veilor iso --medium medium.iso --mutable --out {iso}"]
    assert (place.root / iso).exists()
    (place.root / "kickstart/veilor-os.ks").unlink()
    assert place.run("build-livecd", "medium.iso").returncode == 1 and not place.calls()


@pytest.mark.parametrize("hosted", [True, False])
def test_room_is_made_on_a_hosted_runner_alone(hosted, place):
    for name in ("sudo", "make", "go", "df"):
        place.program(name)
    done = place.run("setup-runner", "iso", **({"GITHUB_ACTIONS": "true"} if hosted else {}))
    assert done.returncode == 0, done.stderr
    removed = [line for line in place.calls("sudo") if " rm " in line]
    assert removed == (["sudo rm -rf /usr/share/dotnet /usr/local/lib/android /opt/ghc"] if hosted else [])
    assert bool(place.calls("df")) == hosted and place.calls("make setup")


PODMAN = """if [[ $1 == image ]]; then echo "base.example/kinoite@sha256:0"; exit; fi
printf '/usr/lib\\tdir\\t0755\\n'"""


@pytest.mark.parametrize("code", [0, 1])
def test_the_base_that_was_built_on_is_compared_with_its_stand_in(place, code):
    place.program("podman", PODMAN)
    python = place.root / ".venv/bin/python"
    python.write_text(f'#!/bin/bash\ncp "$VEILOR_BASE_TREE" "{place.root}/seen"; exit {code}\n')
    python.chmod(0o755)
    done = place.run("compare-base")
    assert done.returncode == code, done.stderr
    assert ("bring stand-ins/image/tree.tsv up to date" in done.stderr) == bool(code)
    assert (
        "run --rm --network none base.example/kinoite@sha256:0 find / -xdev" in place.calls("podman run")[0]
    )
    assert (place.root / "seen").read_text() == "path\ttype\tmode\n/usr/lib\tdir\t0755\n"


TRIVY = """[[ $1 != image ]] || while (($#)); do if [[ $1 == --output ]]; then echo '{}' >"$2"; fi; shift; done
[[ $1 != sbom ]] || exit ${HOLES:-0}"""  # noqa: E501


@pytest.mark.parametrize("local", [True, False], ids=["just built here", "from the registry"])
def test_an_image_is_looked_through_by_hand_as_on_github(local, place):
    place.program("veilor")
    assert place.run("scan-image", DIGEST).returncode == 4, "without trivy nothing was looked at"
    place.program("trivy", TRIVY)
    place.program("podman")
    (place.root / "build").mkdir(exist_ok=True)
    (place.root / "build/digest").write_text(f"{DIGEST if local else 'sha256:1'}\n")
    done = place.run("scan-image", DIGEST)
    assert done.returncode == 0 and (place.root / "build/sbom.json").exists(), done.stderr
    assert f"ghcr.io/veilor/veilor-os@{DIGEST}" in place.calls("trivy image")[0]
    asked = [line for line in place.calls("podman run") if "advisory list --security" in line]
    image = "localhost/veilor-os:candidate" if local else f"ghcr.io/veilor/veilor-os@{DIGEST}"
    assert len(asked) == 2 and all(image in line for line in asked)
    assert ["--installed" in line for line in asked] == [True, False] and "--available" in asked[1]
    assert place.run("scan-image", DIGEST, HOLES="1").returncode == 1
    assert place.run("scan-image", DIGEST, RPMS="1").returncode == 1


def test_a_candidate_is_fetched_with_the_callers_login(place):
    if not os.access("/dev/kvm", os.W_OK):
        pytest.skip("NOT RUN: the script begins by looking for /dev/kvm, which is not there or not ours")
    place.program("veilor")
    place.program("skopeo", 'echo "login $REGISTRY_AUTH_FILE" >>' + str(place.log))
    left = place.root / "build/candidate-1/left-over"
    left.parent.mkdir(parents=True)
    left.touch()
    assert (
        place.run("rehearse-candidate", DIGEST, "medium.iso", REGISTRY_AUTH_FILE="/x/auth.json").returncode
        == 0
    )
    assert (
        f"docker://ghcr.io/veilor/veilor-os@{DIGEST} oci:build/candidate-{DIGEST[7:]}"
        in place.calls("skopeo")[0]
    )
    assert place.calls("login /x/auth.json")
    assert place.calls("veilor") == [
        f"veilor rehearse life --base oci:build/candidate-{DIGEST[7:]} --medium medium.iso"
    ]
    assert not left.exists()


COSIGN = """if [[ $2 == --help ]]; then echo "Flags: $FLAGS"; exit; fi
while (($#)); do if [[ $1 == --output-signature ]]; then touch "$2"; fi; shift; done"""


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("--new-bundle-format --use-signing-config", " --new-bundle-format=false --use-signing-config=false"),
        ("--new-bundle-format", " --new-bundle-format=false"),
        ("--key", ""),
    ],
)
def test_the_iso_is_signed_in_the_format_that_the_guide_reads(known, asked, place):
    place.program(
        "veilor",
        f"[[ $1 != iso ]] || {{ echo iso >build/iso/{FACTS['iso']}; echo sum >build/iso/SHA256SUMS; }}",
    )
    place.program("skopeo", "mkdir -p build/iso/layout")
    place.program("cosign", COSIGN)
    left = place.root / "build/iso/layout/left-over"
    left.parent.mkdir(parents=True)
    left.touch()
    done = place.run("build-iso", DIGEST, "medium.iso", "image.key", FLAGS=known)
    assert done.returncode == 0, done.stderr
    assert place.calls("cosign sign-blob --yes") == [
        f"cosign sign-blob --yes --key image.key --tlog-upload=false{asked} "
        "--output-signature build/iso/SHA256SUMS.sig build/iso/SHA256SUMS"
    ]
    assert not left.exists(), "a second image on the medium"


GH = """case "$1 $2" in "pr list") cat {state} 2>/dev/null || true ;; "pr create") echo 7 >{state} ;; esac"""
LATER = """if [[ $1 == push && -e {trap} ]]; then /usr/bin/git -C {remote} update-ref refs/heads/raise-base main; fi
exec /usr/bin/git "$@\""""  # noqa: E501


@pytest.fixture
def base(place, tmp_path):
    """A clone of a repository on this disk, in place of GitHub's, with a pin that each call of veilor raises
    to $PIN.
    """
    remote = tmp_path / "remote.git"
    git = {"cwd": place.root, "check": True, "timeout": 60}
    (place.root / "bluebuild").mkdir()
    (place.root / "bluebuild/base.toml").write_text("digest = 0\n")
    (place.root / "bluebuild/builders.toml").write_text("digest = 0\n")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(remote)], **git)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], **git)
    subprocess.run(["git", "add", "scripts", "bluebuild"], **git)
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "-m", "x"], **git
    )
    subprocess.run(["git", "push", "--quiet", str(remote), "main"], **git)
    place.program("veilor", 'echo "digest = $PIN" >bluebuild/base.toml')
    place.program("gh", GH.format(state=tmp_path / "pull-request"))
    place.program("git", LATER.format(trap=tmp_path / "somebody-pushes", remote=remote))

    def propose(pin: str, fresh: bool = True):
        if fresh:  # what a workflow begins with
            subprocess.run(["git", "switch", "--quiet", "--force", "main"], **git)
        return place.run(
            "propose-base",
            PIN=pin,
            GH_TOKEN="t",
            GITHUB_REPOSITORY="o/r",
            GIT_CONFIG_COUNT="1",
            GIT_CONFIG_KEY_0=f"url.{remote}.insteadOf",
            GIT_CONFIG_VALUE_0="https://x-access-token:t@github.com/o/r",
        )

    def show(what: str) -> str:
        return subprocess.run(
            ["git", "-C", str(remote), *what.split()], capture_output=True, text=True, check=True, timeout=60
        ).stdout

    propose.show = show
    return propose


def test_one_branch_and_one_pull_request_for_the_base_however_often(base, place):
    first = base("1")
    assert first.returncode == 0, first.stderr
    assert place.calls("gh pr create") and not place.calls("gh pr edit")
    for pin, fresh in (("2", False), ("3", True)):  # the same day again in the same clone, and the next day
        done = base(pin, fresh)
        assert done.returncode == 0, done.stderr
        assert place.calls("gh pr edit 7") and not place.calls("gh pr create")
    assert base.show("branch --format=%(refname:short)").split() == ["main", "raise-base"]
    assert base.show("show raise-base:bluebuild/base.toml") == "digest = 3\n"
    assert base.show("show main:bluebuild/base.toml") == "digest = 0\n"


def test_what_somebody_pushed_meanwhile_is_not_written_over(base, place, tmp_path):
    assert base("1").returncode == 0
    (tmp_path / "somebody-pushes").touch()
    assert base("2").returncode != 0 and not place.calls("gh")
    assert base.show("show raise-base:bluebuild/base.toml") == "digest = 0\n"


def test_a_base_that_is_the_same_is_not_proposed(base, place):
    assert base("0").returncode == 0 and not place.calls("gh")


CURL = """while (($#)); do if [[ $1 == --output ]]; then echo {content} >"$2"; fi; shift; done"""
GPG = """while (($#)); do if [[ $1 == --output ]]; then cp {sums} "$2"; fi; shift; done"""


@pytest.mark.parametrize("signed", [True, False])
def test_the_medium_is_the_one_of_product_toml_and_what_fedora_signed(signed, place, tmp_path):
    place.facts |= {
        "medium": "netinst-45.iso",
        "medium-folder": "https://x/45",
        "medium-checksums": "SUMS-45",
    }
    place.program("veilor")
    place.program("curl", CURL.format(content="medium"))
    digest = hashlib.sha256(b"medium\n" if signed else b"another").hexdigest()
    (tmp_path / "sums").write_text(f"SHA256 (netinst-45.iso) = {digest}\n")
    place.program("gpg", GPG.format(sums=tmp_path / "sums"))
    done = place.run("fetch-medium", str(tmp_path / "medium.iso"))
    assert (done.returncode == 0) == signed == (tmp_path / "medium.iso").exists(), done.stderr
    asked = [call.split()[-1] for call in place.calls("curl")]
    assert asked[:2] == ["https://x/45/netinst-45.iso", "https://x/45/SUMS-45"]
    assert signed or "netinst-45.iso is not what Fedora signed" in done.stderr


BLUEBUILD = """echo "started in ${{PWD##*/}}" >>{log}
while (($#)); do if [[ $1 == --output ]]; then echo 'ARG BASE_IMAGE="x"' >"$2"; fi; shift; done"""


def test_the_image_is_built_of_bluebuilds_folder_on_the_verified_base(place):
    (place.root / "bluebuild").mkdir()
    place.program("veilor", f"[[ $1 != base ]] || echo ghcr.io/x/base@{DIGEST}")
    place.program("bluebuild", BLUEBUILD.format(log=place.log))
    place.program("podman")
    done = place.run("build-image", SEQUENCE_FLOOR="7")
    assert done.returncode == 0, done.stderr
    assert place.calls("veilor") == [
        "veilor base verify",
        "veilor stage bluebuild/files/stage --sequence-floor 7",
    ]
    assert place.calls("bluebuild") == [
        "bluebuild generate --skip-validation --output ../build/Containerfile recipe.yml"
    ]
    assert place.calls("python") == ["python -m veilor.build.builders use build/Containerfile"]
    assert place.calls("started in") == ["started in bluebuild"]
    assert place.run("build-image").returncode == 0
    assert place.calls("veilor")[-1].endswith("--sequence-floor channel"), (
        "the floor is what is announced now"
    )
    build, lint = place.calls("podman")
    assert f"--build-arg BASE_IMAGE=ghcr.io/x/base@{DIGEST}" in build and build.endswith(" bluebuild")
    assert f"org.opencontainers.image.version={FACTS['fedora']}." in build
    assert lint.endswith("bootc container lint")
    place.program(
        "bluebuild", 'while (($#)); do if [[ $1 == --output ]]; then echo "FROM x" >"$2"; fi; shift; done'
    )
    done = place.run("build-image")
    assert (
        done.returncode == 1 and "takes no BASE_IMAGE any more" in done.stderr and not place.calls("podman")
    )


def test_a_dry_run_needs_no_pin_and_leaves_nothing_that_could_be_pushed(place):
    (place.root / "bluebuild").mkdir()
    (place.root / "build").mkdir()
    (place.root / "build/version").write_text("of a build before\n")
    place.program("veilor", "[[ $1 != base ]] || exit 1")
    place.program("bluebuild", BLUEBUILD.format(log=place.log))
    place.program("skopeo", f"echo {DIGEST}")
    place.program("podman")
    done = place.run("build-image", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not place.calls("veilor base") and f"@{DIGEST}" in place.calls("podman build")[0]
    assert place.calls("python")[0] == "python -m veilor.build.builders pin"
    assert "which nobody verified" in done.stdout
    pushed = place.run("push-candidate")
    assert pushed.returncode and not place.calls("podman push")
    (place.root / "build/digest").unlink(missing_ok=True)
    assert place.run("scan-image", "--local").returncode == 0, "no trivy, no registry"
    assert not place.calls("trivy") and all(
        "localhost/veilor-os:candidate" in one for one in place.calls("podman run")
    )
