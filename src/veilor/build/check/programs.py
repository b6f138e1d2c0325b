"""Programs and data that no Python package carries, put into the environment: `make checkers`.

actionlint comes through Go's module proxy, whose checksum database vouches for it; BlueBuild's schemas from
its crate, held against a hash; the `bluebuild` program itself (`--all`, some minutes) by cargo with the
crate's own lock file. `--browser` takes a Chromium from Debian, where we may install one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.7"
BLUEBUILD = "0.9.40"
CRATE = f"https://static.crates.io/crates/blue-build/blue-build-{BLUEBUILD}.crate"
CRATE_SHA256 = "33b81638441073620cb1398dbe38a8774d87085f59e9776ca0b9ee7e7355a9b5"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCHEMAS = Path(sys.prefix, "share", f"blue-build-{BLUEBUILD}")


def unpack_schemas(crate: bytes, dest: Path) -> None:
    """Write the schemas in the gzipped CRATE to the new folder DEST.

    Raises ValueError when the crate is not the one that is known here.
    """
    if hashlib.sha256(crate).hexdigest() != CRATE_SHA256:
        raise ValueError(f"{CRATE} is not the file it was; nothing was taken from it")
    new = dest.with_name(dest.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(crate)) as tar:
        for member in tar:
            _, found, name = member.name.partition("/test-files/schema/")
            if found and member.isfile() and ".." not in name:
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                (new / name).write_bytes(content.read() if content else b"")
    new.rename(dest)


def install_schemas() -> str:
    """Fetch BlueBuild's schemas unless they are there; what went wrong, or nothing."""
    if SCHEMAS.exists():
        return ""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(CRATE, headers={"User-Agent": "veilor"}), timeout=120
        ) as answer:
            unpack_schemas(answer.read(), SCHEMAS)
    except (OSError, ValueError) as error:
        return f"BlueBuild's schemas: {error}"
    return ""


def install(name: str, argv: list[str], env: dict[str, str]) -> str:
    """Run ARGV, which puts the program NAME into the environment, unless it is there.

    ENV is added to the environment. Returns what went wrong, or nothing.
    """
    if Path(sys.executable).with_name(name).exists():
        return ""
    if not shutil.which(argv[0]):
        return f"{name}: {argv[0]} is not installed here"
    done = subprocess.run(
        argv,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    return f"{name}: {' / '.join(done.stderr.strip().splitlines()[-2:])}" if done.returncode else ""


def install_browser() -> str:
    """Install a Chromium by apt, where there is none and we may; what went wrong, or nothing."""

    def found() -> bool:
        return bool(os.environ.get("VEILOR_CHROMIUM")) or any(map(shutil.which, BROWSERS))

    if not found() and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            subprocess.run(
                ["apt-get", "-o", "DPkg::Lock::Timeout=300", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=900,
                check=False,
            )
    if found():
        return ""
    return (
        "a Chromium: install one (Debian: apt-get install chromium; Fedora: dnf install chromium), or name "
        "it in $VEILOR_CHROMIUM"
    )


def main(argv: list[str]) -> int:
    """Install what is missing; one line for each that could not be, and exit code 1 then."""
    here = Path(sys.executable).parent
    missing = [
        install_schemas(),
        install("actionlint", ["go", "install", ACTIONLINT], {"GOBIN": str(here), "GOFLAGS": "-mod=mod"}),
    ]
    if "--all" in argv:
        root = ["--root", str(here.parent), "--locked", "--debug", "blue-build", "--version", BLUEBUILD]
        missing.append(install("bluebuild", ["cargo", "install", "--quiet", *root], {}))
    if "--browser" in argv:
        missing.append(install_browser())
    for line in filter(None, missing):
        print(f"checkers: without {line}; what needs it will say NOT RUN", file=sys.stderr)
    return 1 if any(missing) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
