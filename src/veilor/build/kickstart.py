"""The kickstart: made one file for the medium, and checked before it gets there.

Fedora's own parser has to take it, and what a person relies on has to be in it: which disk may be touched,
encryption, no passphrase. Each rule is a function of the parsed kickstart; it returns what is wrong, or
nothing. A rule reads what the parser understood, and the text only where the parser knows nothing of it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from pykickstart.base import BaseHandler
from pykickstart.constants import KS_SCRIPT_ONERROR, KS_SCRIPT_POST, KS_SCRIPT_PRE, KS_SCRIPT_PREINSTALL
from pykickstart.errors import KickstartError
from pykickstart.parser import KickstartParser

from veilor.build.errors import BuildError
from veilor.build.facts import FILE, fedora_number
from veilor.core.product import load

SOURCE_ROOT = Path(__file__).resolve().parents[3]
TARGET = "/tmp/veilor-target.ks"
BOOT_MIB = 2048
KDF_KIB = 1 << 20
IMAGE_FOLDER = "/run/install/repo/container"
# What a %pre script lays out for the later ones.
ENDING, KEEP_LOGS = "/run/veilor-install/ending.py", "/run/veilor-install/keep_logs.py"
# What the installer includes of what a %pre script has written, when the person leaves the layout of the disk
# to us.
GUIDED = re.compile(
    r"(?ms)^%include (/tmp/veilor-guided\.ks)$(?=.*^%pre [^\n]*\ncat > \1 <<'EOF'\n(.*?)^EOF$)"
)
INCLUDE = re.compile(r"^%include\s+(\S+)\s*$")


def flatten(path: Path) -> str:
    """The kickstart at PATH with every `%include` of a relative path replaced by that file.

    An absolute path is left: such a file is made while the installer runs. Raises BuildError when a file is
    missing.
    """
    return "".join(f"{line}\n" for _, _, line in flatten_lines(path))


def flatten_lines(path: Path) -> list[tuple[Path, int, str]]:
    """As `flatten`, each line with the file and the number that it has there."""
    lines = []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BuildError(
            f"{path} can't be read ({error.strerror}), so there is no kickstart to use; restore it from git"
        ) from None
    for number, line in enumerate(text.splitlines(), 1):
        found = INCLUDE.match(line)
        if not found or found[1].startswith("/"):
            lines.append((path, number, line))
            continue
        part = flatten_lines(path.parent / found[1])
        if any(inner.startswith("%") and not INCLUDE.match(inner) for _, _, inner in part):
            raise BuildError(
                f"{path.parent / found[1]} has a line that begins with %, which ends the script it goes "
                "into; indent it"
            )
        lines += part
    return lines


def as_read(text: str) -> list[int]:
    """The numbers (from 0) of TEXT's lines in the order in which the installer reads them.

    The guided layout of the disk, which a script writes, stands in the place of its include.
    """
    order = list(range(len(text.splitlines())))
    if found := GUIDED.search(text):
        include, body = (text[:at].count("\n") for at in (found.start(), found.start(2)))
        order[include : include + 1] = range(body, body + found[2].rstrip("\n").count("\n") + 1)
    return order


def make_handler(fedora: str) -> BaseHandler:
    """pykickstart's handler, which knows the commands of Fedora FEDORA ("44").

    Raises BuildError when the installed pykickstart has none for that number.
    """
    try:
        module = importlib.import_module(f"pykickstart.handlers.f{fedora}")
    except ModuleNotFoundError:
        raise BuildError(
            f"{FILE}: pykickstart {importlib.metadata.version('pykickstart')} does not know Fedora {fedora} "
            "yet, so no kickstart can be checked for it; take a newer one by `make lock`, then `make setup`"
        ) from None
    return getattr(module, f"F{fedora}Handler")()


class Parsed:
    """A kickstart as the parser of Fedora FEDORA understands it, and the commands that it names, in order.

    Raises KickstartError for a text that the parser refuses, and BuildError as `make_handler`.
    """

    def __init__(self, text: str, fedora: str) -> None:
        """Parse TEXT as the installer of Fedora FEDORA does."""
        lines = text.splitlines()
        self.text = text = "".join(f"{lines[number]}\n" for number in as_read(text))
        self.handler = make_handler(fedora)
        parser = KickstartParser(self.handler, missingIncludeIsFatal=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser.readKickstartFromString(text)
        self.commands = command_lines(text)
        self.scripts = self.handler.scripts
        self.parts = {part.mountpoint: part for part in self.handler.partition.partitions}

    def names(self, command: str) -> list[str]:
        """The lines that begin with COMMAND."""
        return [line for line in self.commands if line.split()[0] == command]

    def scripts_of(self, kind: int, *, in_chroot: bool | None = None) -> list:
        """The scripts of KIND, all of them or those that run IN_CHROOT or outside of it."""
        return [s for s in self.scripts if s.type == kind and in_chroot in (None, s.inChroot)]


def command_lines(text: str) -> list[str]:
    """The lines of TEXT outside of sections that are neither empty nor comments."""
    found, inside = [], False
    for line in text.splitlines():
        if line.startswith("%") and not line.startswith("%include"):
            inside = not line.startswith("%end")
        elif not inside and line.strip() and not line.lstrip().startswith("#"):
            found.append(line.strip())
    return found


def clears_no_other_disk(ks: Parsed) -> str:
    """No disk is erased that the person did not choose."""
    if ks.names("clearpart") or ks.names("ignoredisk") or ks.names("zerombr"):
        return (
            "which disk is erased is for the person to say: clearpart, ignoredisk and zerombr belong into "
            + TARGET
        )
    if re.search(r"clearpart\s+[^\n]*--(?:all|linux)", ks.text):
        return "clearpart --all (or --linux) erases what nobody chose; name the partitions with --list"
    return ""


def asks_for_the_disk(ks: Parsed) -> str:
    """A %pre script asks for the disk, and its answer is included."""
    if not any(line.split() == ["%include", TARGET] for line in ks.commands):
        return f"it doesn't include {TARGET}, so nobody chooses the disk"
    asking = [
        s for s in ks.scripts_of(KS_SCRIPT_PRE) if "Install to which disk?" in s.script and TARGET in s.script
    ]
    if not any(s.errorOnFail and s.interp.endswith("python3") for s in asking):
        return "no %pre --interpreter=/usr/bin/python3 --erroronfail script asks for the disk"
    return ""


def holds_no_secret(ks: Parsed) -> str:
    """There is no passphrase and no password in it."""
    secret = re.search(
        r"^[^#\n]*--(?:passphrase|hw-passphrase|backuppassphrase|escrowcert|password|iscrypted|plaintext)\b",
        ks.text,
        re.M,
    )
    if not secret:
        return ""
    return f"it must not hold a passphrase or password ({secret[0].strip()[:40]}); the installer asks for it"


def encrypts_root(ks: Parsed) -> str:
    """The root is encrypted by LUKS2, its passphrase stretched by argon2id with enough memory."""
    root = ks.parts.get("/")
    if root is None:
        return "there is no part / line"
    if not root.encrypted or root.luks_version != "luks2":
        return "root must be --encrypted --luks-version=luks2"
    if root.pbkdf != "argon2id" or root.pbkdf_memory < KDF_KIB:
        return f"root's passphrase must be stretched by --pbkdf=argon2id --pbkdf-memory={KDF_KIB} or more"
    return ""


def encrypts_the_rest(ks: Parsed) -> str:
    """Nothing but what starts the machine lies on the disk unencrypted."""
    clear = [
        mount
        for mount, part in ks.parts.items()
        if not part.encrypted and mount not in ("/boot", "/boot/efi", "biosboot")
    ]
    return f"{', '.join(clear)} would lie on the disk unencrypted" if clear else ""


def has_room_to_boot(ks: Parsed) -> str:
    """/boot is a partition of its own with room for several kernels, and the EFI partition is made."""
    boot = ks.parts.get("/boot")
    if boot is None or (boot.size or 0) < BOOT_MIB or boot.encrypted:
        return f"/boot must be a partition of its own with --size={BOOT_MIB} or more, not encrypted"
    if not ks.names("reqpart") and "/boot/efi" not in ks.parts:
        return "nothing makes the EFI partition: add reqpart"
    return ""


def deploys_from_the_medium(ks: Parsed) -> str:
    """The system is the image on the medium, and nothing else."""
    container = ks.handler.ostreecontainer
    wanted = f"the image must come by ostreecontainer --stateroot=… --transport=oci --url={IMAGE_FOLDER}"
    if not container.seen:
        return wanted
    if container.url != IMAGE_FOLDER or container.transport != "oci":
        return wanted
    if not container.stateroot:
        return wanted
    if any(ks.names(command) for command in ("bootc", "ostreesetup", "liveimg", "url")):
        return "there is another source of the system beside ostreecontainer"
    return ""


def leaves_the_origin(ks: Parsed) -> str:
    """No script changes what the system follows."""
    touching = re.search(
        r"bootc\s+switch|mutate-in-place|\.origin\b", "\n".join(s.script for s in ks.scripts)
    )
    if not touching:
        return ""
    return (
        f"a script changes what the system follows ({touching[0]}); only the first boot may, once it has "
        "verified"
    )


def ends_in_a_shutdown(ks: Parsed) -> str:
    """What refuses an installation ends it by a sentence of ours and a shutdown."""
    laid_out = [s for s in ks.scripts_of(KS_SCRIPT_PRE) if f"cat > {ENDING} <<" in s.script]
    if not any('"poweroff"' in s.script and s.errorOnFail for s in laid_out):
        return f"no %pre --erroronfail writes {ENDING}, which ends an installation that is refused"
    for script in ks.scripts:
        if script.errorOnFail and script.interp.endswith("python3") and "ending.end(" not in script.script:
            return f"the script of line {script.lineno} may fail, and does not end by {ENDING}"
    return ""


def leaves_the_firewall(ks: Parsed) -> str:
    """The installer opens nothing in the firewall: without a word of ours it opens ssh."""
    firewall = ks.handler.firewall
    if firewall.seen and (firewall.use_system_defaults or "ssh" in firewall.remove_services):
        return ""
    return "the installer would open ssh in the firewall: add firewall --use-system-defaults"


def starts_graphically(ks: Parsed) -> str:
    """The installed system starts with a login screen, also when the installer asks as text."""
    if ks.handler.xconfig.startX:
        return ""
    return "a text installation would have no login screen: add xconfig --startxonboot"


def last_post(ks: Parsed, *words: str) -> bool:
    """Whether a %post --nochroot script that must succeed says WORDS, and none comes after that may write."""
    scripts = ks.scripts_of(KS_SCRIPT_POST)
    for number, script in enumerate(scripts):
        if script.errorOnFail and not script.inChroot and all(word in script.script for word in words):
            return all("keep_logs" in later.script for later in scripts[number + 1 :])
    return False


def completes_bootc(ks: Parsed) -> str:
    """A script that must succeed completes the installation for bootc."""
    if last_post(ks, '"bootc", "install", "ensure-completion"'):
        return ""
    return (
        "no last %post --nochroot --erroronfail runs `bootc install ensure-completion`, so the arguments in "
        "kargs.d would never be applied"
    )


def judges_the_room(ks: Parsed) -> str:
    """Room is judged: of a disk before it is erased, of partitions made by hand before the copying."""
    asking = any("needed_room(" in s.script for s in ks.scripts_of(KS_SCRIPT_PRE))
    copying = [s for s in ks.scripts_of(KS_SCRIPT_PREINSTALL) if "statvfs" in s.script and s.errorOnFail]
    if asking and copying:
        return ""
    return "no %pre and %pre-install judge the room for the image; the installer asks for 500 MB"


def puts_settings_back(ks: Parsed) -> str:
    """The last script that may fail puts the new system's settings back to the image's, or refuses."""
    if last_post(ks, '"as-shipped", "--put-back"'):
        return ""
    return (
        "no last %post --nochroot --erroronfail puts back what the installer changed in /etc, which would "
        "hide the image's own settings for good"
    )


def refuses_plain_root(ks: Parsed) -> str:
    """A script that must succeed refuses a root that is not LUKS2 with argon2id."""
    for script in ks.scripts_of(KS_SCRIPT_POST, in_chroot=False):
        if script.errorOnFail and "luksDump" in script.script and "argon2id" in script.script:
            return ""
    return "no %post --nochroot --erroronfail refuses a root that is not LUKS2"


def keeps_logs(ks: Parsed) -> str:
    """The logs are kept, also after an error."""
    laid_out = [
        s
        for s in ks.scripts_of(KS_SCRIPT_PRE)
        if f"cat > {KEEP_LOGS} <<" in s.script and '"log/veilor-install"' in s.script
    ]
    keeping = [s for s in ks.scripts if s not in laid_out and f"python3 {KEEP_LOGS}" in s.script]
    at_the_end = any(s.type == KS_SCRIPT_POST and not s.inChroot for s in keeping)
    after_an_error = any(s.type == KS_SCRIPT_ONERROR for s in keeping)
    if laid_out and at_the_end and after_an_error:
        return ""
    return "the logs must be kept both by a %post --nochroot and by an %onerror script"


def has_no_swap(ks: Parsed) -> str:
    """There is no swap on the disk."""
    swap = re.compile(r"^part(ition)?\s+swap\b|--(?:hibernation|recommended)\b")
    if not any(swap.search(line) for line in ks.commands):
        return ""
    return (
        "there must be no swap on the disk: what was in memory would be on it; it lies in compressed memory"
    )


def asks_for_the_language(ks: Parsed) -> str:
    """Language and keyboard are left for the person to choose."""
    fixed = [name for name in ("lang", "keyboard") if ks.names(name)]
    return f"{' and '.join(fixed)} is for the person to say: it belongs into {TARGET}" if fixed else ""


def offers_the_key(ks: Parsed) -> str:
    """A script offers the kernel's key to a firmware with Secure Boot on."""
    asked = [s for s in ks.scripts_of(KS_SCRIPT_PRE) if "Have it trusted" in s.script]
    for script in ks.scripts_of(KS_SCRIPT_POST):
        if asked and "mokutil" in script.script and "--import" in script.script:
            return ""
    return "no %pre and %post offer the kernel's key to a firmware that would not start the system without it"


def leaves_notes(ks: Parsed) -> str:
    """A script leaves recovery notes on /boot."""
    left = [s for s in ks.scripts_of(KS_SCRIPT_POST) if "/boot/veilor-recovery.txt" in s.script]
    return "" if left else "no %post leaves recovery notes on /boot"


def locks_root(ks: Parsed) -> str:
    """root is locked, and the installer makes no account."""
    if not ks.handler.rootpw.seen or not ks.handler.rootpw.lock:
        return "root must be locked: rootpw --lock"
    made = [name for name in ("user", "group", "sshkey", "sshpw") if ks.names(name)]
    return f"Plasma Setup makes the first account; leave out {' and '.join(made)}" if made else ""


def says_no_display_mode(ks: Parsed) -> str:
    """It says no display mode: the boot entries do, and the installer looks at nothing else."""
    modes = [mode for mode in ("text", "graphical", "cmdline", "vnc", "rdp") if ks.names(mode)]
    if not modes:
        return ""
    return f"{' and '.join(modes)} would contradict the boot entry, which says how the installer asks"


def ends_by_itself(ks: Parsed) -> str:
    """It says what happens at the end."""
    return (
        ""
        if ks.names("poweroff") or ks.names("reboot")
        else "neither poweroff nor reboot says what happens at the end"
    )


CHECKS: tuple[Callable[[Parsed], str], ...] = (
    clears_no_other_disk,
    asks_for_the_disk,
    holds_no_secret,
    encrypts_root,
    encrypts_the_rest,
    has_room_to_boot,
    deploys_from_the_medium,
    leaves_the_origin,
    completes_bootc,
    refuses_plain_root,
    keeps_logs,
    locks_root,
    says_no_display_mode,
    ends_in_a_shutdown,
    leaves_the_firewall,
    starts_graphically,
    judges_the_room,
    puts_settings_back,
    ends_by_itself,
    has_no_swap,
    asks_for_the_language,
    offers_the_key,
    leaves_notes,
)
# What the mutable fallback can't have: it is made of packages, from the network, and Fedora's own signed
# kernel.
OF_THE_IMAGE = (deploys_from_the_medium, completes_bootc, judges_the_room, puts_settings_back, offers_the_key)
FALLBACK = tuple(one for one in CHECKS if one not in OF_THE_IMAGE)


def product_fedora(root: Path = SOURCE_ROOT) -> str:
    """The number of the Fedora in product.toml of the clone at ROOT. Raises BuildError when it has none."""
    try:
        return fedora_number(load(root / FILE))
    except (OSError, ValueError) as error:
        raise BuildError(f"{FILE} cannot be used ({error}); correct it, or restore it from git") from None


def check(
    text: str, checks: tuple[Callable[[Parsed], str], ...] = CHECKS, fedora: str | None = None
) -> list[str]:
    """Everything wrong with the flattened kickstart TEXT, each as `name of the check: what`.

    FEDORA is the number of the installer's Fedora, by default that of this clone's product.toml. Raises
    BuildError as `make_handler`.
    """
    fedora = fedora or product_fedora()
    try:
        parsed = Parsed(text, fedora)
    except KickstartError as error:
        return [f"parser: Fedora {fedora}'s installer would not take it: {' '.join(str(error).split())}"]
    return [f"{one.__name__}: {said}" for one in checks if (said := one(parsed))]


def flatten_kickstart(path: Path, checks: tuple[Callable[[Parsed], str], ...] = CHECKS) -> str:
    """`flatten` PATH and `check` the result by CHECKS. Raises BuildError with every problem in one line."""
    text = flatten(path)
    problems = check(text, checks)
    if problems:
        raise BuildError(f"{path} must not go onto a medium: {'; '.join(problems)}")
    return text
