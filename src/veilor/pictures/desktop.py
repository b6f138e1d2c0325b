"""The desktop tree: one cached Debian 13 folder with the programs that draw what a person sees.

Plymouth, SDDM's greeter, Plasma, its notifications and a display in memory: the real programs, of Debian's
versions, for the pictures in docs/. It's apart from the tools tree because it is big, and no rehearsal needs
it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from veilor.lab.cache import artefact, remove_tree
from veilor.lab.flavour import lay_over
from veilor.lab.tools import MIRROR, Tools, bootstrap_debian, unpack_tree

PACKAGES = tuple(
    """plymouth plymouth-label plymouth-x11 plymouth-themes xvfb xdotool x11-apps x11-utils x11-xkb-utils
    xkb-data imagemagick sddm plasma-desktop plasma-workspace kactivitymanagerd kwin-x11 systemsettings
    konsole dolphin kinfocenter kscreen breeze breeze-icon-theme breeze-cursor-theme breeze-gtk-theme
    kde-style-breeze kwin-style-breeze plasma-integration kde-config-gtk-style kde-cli-tools kpackagetool6
    libkf6config-bin qt6-svg-plugins qt6-declarative-dev-tools fonts-inter fonts-jetbrains-mono
    fonts-noto-core libnotify-bin shared-mime-info desktop-file-utils librsvg2-bin dbus-daemon
    at-spi2-core gir1.2-atspi-2.0 python3-gi libgl1-mesa-dri""".split()
)

BOOTC = Path(__file__).with_name("sample_bootc.py")
PERSON = "ada:x:1000:1000:Ada:/root:/bin/sh\n"  # to whom the session belongs


def desktop_tree(cache: Path) -> Path:
    """The desktop tree's folder, cached by its package list in CACHE.

    Making it takes three to seven minutes and 1.4 GB. Raises LabFault when Debian's mirror can't be reached.
    """

    def build(dest: Path) -> None:
        tar = dest.with_name(dest.name + ".tar")
        try:
            bootstrap_debian(tar, PACKAGES)
            unpack_tree(tar, dest)
        finally:
            tar.unlink(missing_ok=True)

    return artefact(cache, "desktop", {"packages": " ".join(PACKAGES), "suite": MIRROR}, build)


class DesktopTools(Tools):
    """Runs programs in the desktop tree, without a network.

    X and Plymouth have sockets by name, and with a network they would meet this host's own. With `as_person`
    what runs in it is not root, as a session is not; Plymouth is.
    """

    as_person = False

    def argv(
        self, argv: list[str], binds: Iterable[Path] = (), env: dict[str, str] | None = None
    ) -> list[str]:
        """The bubblewrap command line that runs ARGV in the tree with BINDS writable at their own paths."""
        wrap, *rest = super().argv(argv, binds, env)
        return [
            wrap,
            "--unshare-net",
            *(["--unshare-user", "--uid", "1000", "--gid", "1000"] if self.as_person else []),
            *rest,
        ]


@contextmanager
def staged_desktop(cache: Path, staged: Path) -> Iterator[DesktopTools]:
    """The desktop tree with the staged tree STAGED copied over it, as an image has it; removed at the end.

    Its files are hard links to those of the cached tree, so it costs seconds and no room; what STAGED brings
    is copied.
    """
    tree = desktop_tree(cache)
    (cache / "work").mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="pictures-", dir=cache / "work"))
    try:
        (scratch / "pid").write_text(str(os.getpid()))
        root = scratch / "root"
        for part in ("usr", "etc", "var/lib/dpkg"):
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-al", tree / part, root / part], check=True, timeout=300)
        lay_over(staged, root)
        shutil.copy(BOOTC, root / "usr/bin/bootc")
        (root / "usr/bin/bootc").chmod(0o755)
        people = root / "etc/passwd"
        known = people.read_text()
        people.unlink()
        people.write_text(known + PERSON)
        yield DesktopTools(root)
    finally:
        remove_tree(scratch)
