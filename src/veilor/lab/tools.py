"""The tools tree: one cached Debian 13 folder that holds every program the lab runs.

Everybody gets the same QEMU, skopeo, cosign and GRUB, whatever their host has. Programs run in it through
bubblewrap: a read-only /usr and /etc, their own /tmp and PID namespace (so that nothing outlives us), the
host's network, and just the folders named by the caller, at the same path.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from veilor.lab.cache import KEY_CHARS, artefact, key_of
from veilor.lab.verdict import LabFault, NotRun

MIRROR = "trixie"
PACKAGES = tuple(
    """qemu-system-x86 qemu-utils ovmf skopeo cosign docker-registry xorriso grub-efi-amd64-bin
    grub-pc-bin grub-common mtools dosfstools e2fsprogs rustc cargo gcc libc6-dev pkg-config libostree-dev
    libssl-dev libzstd-dev ostree squashfs-tools isomd5sum socat ca-certificates python3-minimal zstd
    systemd systemd-oomd systemd-zram-generator dracut-core kmod procps usbguard firewalld chrony auditd
    polkitd duktape openssh-server libxml2-utils desktop-file-utils secilc lynis""".split()
)
KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
ROOM_GIB = 4  # a tree, its tar file and the packages it is made from
HOST_PACKAGES = {"mmdebstrap": "mmdebstrap", "bwrap": "bubblewrap"}
SLIM = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "wallpapers/Next")]


@dataclass(frozen=True)
class Finished:
    """What a program left behind: its exit code and its two outputs as bytes."""

    returncode: int
    stdout: bytes
    stderr: bytes


def ensure_host_programs() -> None:
    """Install mmdebstrap and bubblewrap by apt where we may.

    Raises NotRun, with the one command to run, where they are still not there.
    """
    missing = missing_on_host()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for argv in (["apt-get", "update"], command):
            subprocess.run(
                argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=900, check=False
            )
    still = missing_on_host()
    if still:
        fedora = " ".join(still).replace("debian-archive-", "debian-")
        raise NotRun(
            f"the host lacks {' and '.join(still)}, so no rehearsal can run; install them "
            f"(Debian: sudo apt-get install {' '.join(still)}; Fedora: sudo dnf install {fedora}) and run "
            "again"
        )


def missing_on_host() -> list[str]:
    """The packages that the host has to have and lacks: programs, and the keys by which apt knows Debian."""
    lacking = [package for program, package in HOST_PACKAGES.items() if not shutil.which(program)]
    return lacking + ([] if any(Path(path).exists() for path in KEYRINGS) else ["debian-archive-keyring"])


def ensure_namespaces() -> None:
    """Raise NotRun unless bubblewrap can make its namespaces here (needs root or user namespaces)."""
    probe = subprocess.run(
        ["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "true"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    if probe.returncode:
        raise NotRun(
            "bubblewrap cannot make namespaces here "
            f"({probe.stderr.decode(errors='replace').strip() or 'no reason given'}), so no rehearsal can "
            "run; run as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
        )
    if os.geteuid() and not (
        shutil.which("newuidmap") and has_id_range(Path("/etc/subuid")) and has_id_range(Path("/etc/subgid"))
    ):
        raise NotRun(
            "you have no range of user ids of your own (newuidmap, /etc/subuid, /etc/subgid), which "
            "unpacking Debian needs; run as root, or once: sudo apt-get install uidmap; "
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
        )


def has_id_range(table: Path) -> bool:
    """Whether the file TABLE (/etc/subuid, see subuid(5)) gives us at least 65,536 ids."""
    me = pwd.getpwuid(os.geteuid())
    try:
        rows = [line.split(":") for line in table.read_text().splitlines()]
    except OSError:
        return False
    return any(
        len(row) == 3 and row[0] in (me.pw_name, str(me.pw_uid)) and row[2].isdigit() and int(row[2]) >= 65536
        for row in rows
    )


def run_in_own_group(argv: list[str], out: BinaryIO, timeout: float) -> int | None:
    """Run ARGV, which starts others, in a process group of its own, and leave none of them behind.

    Its outputs go to OUT. Returns its exit code, None when TIMEOUT seconds were not enough. mmdebstrap hangs
    up its whole group when it fails, which would be ours too. It is asked to end before it is killed, since
    it has mounts and a temporary folder to remove.
    """
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for kind, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
            if process.poll() is None:
                os.killpg(process.pid, kind)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)


def bootstrap_debian(
    dest: Path, packages: Iterable[str], hooks: Iterable[str] = (), suite: str = MIRROR
) -> None:
    """Write a minimal Debian with PACKAGES to the tar file DEST by mmdebstrap.

    HOOKS are shell commands that mmdebstrap runs on the tree. Raises NotRun without room for it, LabFault
    with mmdebstrap's own last words: most often the mirror could not be reached.
    """
    for folder in {dest.parent, Path(tempfile.gettempdir())}:
        if (free := shutil.disk_usage(folder).free / (1 << 30)) < ROOM_GIB:
            raise NotRun(
                f"{folder} has {free:.0f} GiB free and a Debian tree needs {ROOM_GIB}; make room, or set "
                "VEILOR_CACHE and TMPDIR"
            )
    argv = [
        "mmdebstrap",
        # Its own choice for a user who may not map ids is fakechroot, which does not get through.
        "--mode=root" if os.geteuid() == 0 else "--mode=unshare",
        "--format=tar",
        "--variant=minbase",
        "--aptopt=Acquire::Languages none",
        *SLIM,
        f"--include={','.join(packages)}",
        *(f"--customize-hook={hook}" for hook in hooks),
        suite,
        str(dest),
    ]
    log = dest.with_name(dest.name + ".log")
    with log.open("wb") as out:
        code = run_in_own_group(argv, out, 2400)
    if code:
        errors = [
            line for line in log.read_text(errors="replace").splitlines() if line.startswith(("E:", "Err:"))
        ]
        raise LabFault(
            f"Debian {suite} could not be fetched or unpacked "
            f"({'; '.join(errors[-2:])[-300:] or 'see ' + str(log)}); "
            "check the network and the package mirror, then run again"
        )
    log.unlink()


def unpack_tree(tar: Path, dest: Path) -> None:
    """Unpack the TAR that `bootstrap_debian` wrote to the new folder DEST, without its devices."""
    dest.mkdir()
    subprocess.run(
        ["tar", "-C", str(dest), "--no-same-owner", "--exclude=./dev/*", "-xf", str(tar)],
        check=True,
        timeout=900,
    )


class Tools:
    """The tools tree at ROOT and the way to run its programs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def argv(
        self, argv: list[str], binds: Iterable[Path] = (), env: dict[str, str] | None = None
    ) -> list[str]:
        """The bubblewrap command line that runs ARGV in the tree with BINDS writable at their own paths."""
        root = self.root
        wrap = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--new-session", "--clearenv"]
        wrap += ["--ro-bind", f"{root}/usr", "/usr", "--ro-bind", f"{root}/etc", "/etc"]
        for link in ("bin", "sbin", "lib", "lib64"):
            wrap += ["--symlink", f"usr/{link}", f"/{link}"]
        wrap += ["--ro-bind-try", f"{root}/var/lib/dpkg", "/var/lib/dpkg", "--dev", "/dev", "--proc", "/proc"]
        wrap += [
            "--dev-bind-try",
            "/dev/kvm",
            "/dev/kvm",
            "--tmpfs",
            "/tmp",
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/var/tmp",
        ]
        wrap += ["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf", "--dir", "/root"]
        for bind in dict.fromkeys(Path(b).absolute() for b in binds):
            wrap += ["--bind", str(bind), str(bind)]
        settings = {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", "HOME": "/root", **(env or {})}
        for key, value in settings.items():
            wrap += ["--setenv", key, value]
        return [*wrap, "--", *argv]

    def versions(self, packages: Iterable[str]) -> dict[str, str]:
        """The installed version of each of PACKAGES, from dpkg's own record.

        Raises LabFault for one that is not in the tree.
        """
        record = (self.root / "var/lib/dpkg/status").read_text()
        found = dict(re.findall(r"^Package: (\S+)\n(?:\S.*\n|\s.*\n)*?Version: (\S+)$", record, re.M))
        missing = [name for name in packages if name not in found]
        if missing:
            raise LabFault(
                f"the tools tree has no {', '.join(missing)}; run `veilor lab clean` and try again"
            )
        return {name: found[name] for name in packages}

    def run(
        self,
        argv: list[str],
        *,
        binds: Iterable[Path] = (),
        env: dict[str, str] | None = None,
        timeout: float,
        stdin: bytes | None = None,
        check: bool = True,
    ) -> Finished:
        """Run ARGV in the tree to its end, with BINDS writable at their own paths.

        Raises LabFault after TIMEOUT seconds, and with CHECK also on a non-zero exit.
        """
        try:
            done = subprocess.run(
                self.argv(argv, binds, env),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabFault(f"{argv[0]} did not end within {timeout:.0f} s: {' '.join(argv)[:300]}") from None
        if check and done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise LabFault(f"{argv[0]} ended with {done.returncode}: {' / '.join(said[-3:])[-600:]}")
        return Finished(done.returncode, done.stdout, done.stderr)

    def start(
        self, argv: list[str], *, binds: Iterable[Path] = (), env: dict[str, str] | None = None, log: Path
    ) -> subprocess.Popen[bytes]:
        """Start ARGV in the tree, its output going to LOG; it dies with us."""
        with log.open("ab") as out:
            return subprocess.Popen(
                self.argv(argv, binds, env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )


def tools_tree(cache: Path) -> Tools:
    """The tools tree, made on first use (about two minutes and 1.3 GB) and cached by its package list."""

    def build(dest: Path) -> None:
        tar = dest.with_name(dest.name + ".tar")
        try:
            bootstrap_debian(tar, PACKAGES)
            unpack_tree(tar, dest)
            (dest / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
            host = host_certificates()
            # a host with certificates of its own needs them in the tree as well, for cargo's registry
            if host:
                shutil.copyfile(host, dest / "etc/ssl/certs/ca-certificates.crt")
        finally:
            tar.unlink(missing_ok=True)

    return Tools(artefact(cache, "tools", tools_inputs(), build))


def tools_inputs() -> dict[str, str]:
    """What the tools tree is made from: other packages, or other files left out, are another tree."""
    host = host_certificates()
    return {
        "packages": " ".join(PACKAGES),
        "slim": " ".join(SLIM),
        "suite": MIRROR,
        "certificates": hashlib.sha256(host.read_bytes()).hexdigest() if host else "none",
    }


def find_tools_tree(cache: Path) -> Path:
    """The folder of the tools tree of these packages in CACHE, made or not."""
    return cache / f"tools-{key_of('tools', tools_inputs())[:KEY_CHARS]}" / "tools"


def host_certificates() -> Path | None:
    """The host's CA bundle, or None where it has none in the usual folders."""
    for path in (
        os.environ.get("SSL_CERT_FILE", ""),
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    ):
        if path and Path(path).is_file():
            return Path(path)
    return None
