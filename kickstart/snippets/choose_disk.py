"""Asks for disk, keyboard, language and trust in the kernel's key, and writes TARGET from the answers.

Never offered: the installation medium, anything in use, read-only or too small for the image. A disk that
isn't empty is taken only when its name is typed as well. Where the installer's windows will open, who types
`custom` makes the partitions there instead. Nothing is written to any disk here. Without a choice, the
machine is switched off. Exit codes: 0 chosen, 1 not.
"""

import json
import os
import re
import secrets
import subprocess
import sys

sys.path.insert(0, "/run/veilor-install")
import ending

TARGET = "/tmp/veilor-target.ks"
GUIDED = "/tmp/veilor-guided.ks"  # how the chosen disk is laid out
MOK_CODE = f"{ending.HERE}/mok-code"  # what confirms the request to trust the kernel's key; in memory alone
ROOM = f"{ending.HERE}/room"  # for the script that judges partitions made by hand
IMAGE = "/run/install/repo/container"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
GiB = 1 << 30
MINIMUM = 12 * GiB
BESIDE = 4 * GiB  # /boot, the EFI partition, and what the machine writes before its first update
UNPACKED = 3  # bytes on the disk for one of a compressed layer, at most
IMAGES = 2  # an update lies beside what runs
LSBLK = [
    "lsblk",
    "--json",
    "--bytes",
    "--tree",
    "--output",
    "NAME,PATH,TYPE,SIZE,RO,FSTYPE,LABEL,PTTYPE,MOUNTPOINTS,MODEL,SERIAL",
]
NOT_DISKS = ("zram", "ram", "fd", "nbd")  # how the names of disks that hold nothing begin
MEDIUM_FOLDERS = ("/run/install", "/run/initramfs")  # where the installation medium is mounted


class NoChoice(Exception):
    """Why there is no disk to install to, in one line."""


def with_descendants(node):
    """NODE of lsblk's tree and everything on it."""
    found = [node]
    for child in node.get("children") or []:
        found += with_descendants(child)
    return found


def medium_labels(cmdline):
    """The volume labels that the kernel's command line says the medium has."""
    return {label.replace("\\x20", " ") for label in re.findall(r"(?:CDLABEL|LABEL)=([^:\s]+)", cmdline)}


def unpacked(image):
    """The bytes that the image in the OCI layout at IMAGE takes on a disk, at most; 0 where there is none.

    Raises NoChoice when the layout is there and can't be read.
    """
    if not os.path.isdir(image):
        return 0
    try:
        manifests = read_json(f"{image}/index.json")["manifests"]
        layers = read_json(blob_path(image, manifests[0]))["layers"]
        packed = sum(layer["size"] for layer in layers)
        missing = [one["digest"] for one in layers if not os.path.exists(blob_path(image, one))]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NoChoice(
            f"the image on this medium can't be read ({error}); nothing was changed, write the medium anew"
        ) from None
    if missing:
        raise NoChoice(f"this medium lacks {missing[0]}; nothing was changed, write the medium anew")
    return UNPACKED * packed


def needed_room(size):
    """The bytes that a disk needs for an image of SIZE bytes."""
    return max(MINIMUM, BESIDE + IMAGES * size)


def read_json(path):
    """What the JSON file at PATH holds. Raises OSError and ValueError."""
    with open(path) as file:
        return json.load(file)


def blob_path(image, descriptor):
    """Where the blob that DESCRIPTOR of an OCI layout at IMAGE names lies."""
    return os.path.join(image, "blobs", *descriptor["digest"].split(":"))


def asks_for_trust(image, secure_boot):
    """Whether the firmware checks signatures, and the kernel of an IMAGE needs its key trusted.

    SECURE_BOOT is the path of the variable whose fifth byte says so, after four of attributes (UEFI, 3.3).
    """
    try:
        with open(secure_boot, "rb") as variable:
            return os.path.isdir(image) and variable.read()[4:5] == b"\1"
    except OSError:
        return False


def why_not(disk, labels, room=MINIMUM):
    """Why DISK can't be installed to; an empty text when it can.

    DISK is a node of lsblk's tree, LABELS are the volume labels of the medium, ROOM is what it needs, in
    bytes.
    """
    mounted = []
    for node in with_descendants(disk):
        if node.get("label") and node["label"] in labels:
            return "the installation medium"
        mounted += [point for point in node.get("mountpoints") or [] if point]
    if any(point.startswith(MEDIUM_FOLDERS) for point in mounted):
        return "the installation medium"
    if mounted:
        return f"in use: {mounted[0]}"
    if disk["ro"]:
        return "read-only"
    if disk["size"] < room:
        return f"smaller than {in_gib(room)} GiB"
    return ""


def in_gib(size):
    """SIZE bytes in whole GiB, rounded up."""
    return -(-size // GiB)


def is_disk(node):
    """Whether NODE of lsblk's tree is a disk that could hold something."""
    if node["type"] != "disk":
        return False
    if node["name"].startswith(NOT_DISKS):
        return False
    return bool(node["size"])


def sort_disks(blockdevices, cmdline, room=MINIMUM):
    """(disks to offer, [(name, why not)]) from lsblk's `blockdevices` and the kernel's command line.

    A disk needs ROOM, in bytes.
    """
    labels = medium_labels(cmdline)
    offered, left_out = [], []
    for disk in blockdevices:
        if not is_disk(disk):
            continue
        reason = why_not(disk, labels, room)
        if reason:
            left_out.append((disk["name"], reason))
        else:
            offered.append(disk)
    return offered, left_out


def describe_contents(disk, first_bytes):
    """What is on DISK in a few words; an empty text when lsblk and its FIRST_BYTES know of nothing."""
    parts = [node for node in with_descendants(disk)[1:] if node["type"] == "part"]
    if parts:
        return f"{len(parts)} partition{'s' if len(parts) > 1 else ''}"
    if disk.get("fstype"):
        return disk["fstype"]
    if disk.get("pttype"):
        return "a partition table"
    if first_bytes.strip(b"\0"):
        return "unknown data"
    return ""


def target_text(disk, keymap, language):
    """The text of TARGET: only DISK is used, and only it is erased, entry by entry.

    Where DISK is None, nothing is said of any disk.
    """
    asked = [f"keyboard --vckeymap={keymap}", f"lang {language}", ""]
    if disk is None:
        return "\n".join(asked)
    parts = [node["name"] for node in with_descendants(disk) if node["type"] == "part"]
    lines = [f"ignoredisk --only-use={disk['name']}"]
    if not disk.get("pttype"):
        lines.append("zerombr")  # the installer leaves a disk without a partition table alone unless told so
    # The disk's own name is in the list so that it gets a new GPT whatever table it had.
    lines.append(
        f"clearpart --list={','.join([disk['name'], *parts])} --drives={disk['name']} --initlabel "
        "--disklabel=gpt"
    )
    return "\n".join([*lines, *asked])


def use_keymap(name):
    """Switch the console to the keyboard layout NAME; whether there is one of that name."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name):
        return False
    try:
        return subprocess.run(["loadkeys", name], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def parse_language(name):
    """The locale for the NAME that was typed (de_DE, or de_DE.UTF-8); an empty text when it is none."""
    found = re.fullmatch(r"([a-z]{2,3}_[A-Z]{2})(?:\.(?:UTF-8|utf8))?", name)
    return f"{found[1]}.UTF-8" if found else ""


def refuse_silent_mode(cmdline):
    """Raise NoChoice where the installer must ask nobody: it could not ask for the passphrase either."""
    silent = {"inst.cmdline", "inst.noninteractive"} & set(cmdline.split())
    if silent:
        raise NoChoice(
            f"with {sorted(silent)[0]} the installer can't ask for the passphrase; nothing was changed, "
            "start again without it"
        )


def choose(blockdevices, cmdline, ask, say, read_start, set_keymap=use_keymap, room=MINIMUM):
    """Ask until a disk is chosen; (disk, keymap, language), where the disk is None for `custom`.

    BLOCKDEVICES are lsblk's, CMDLINE is the kernel's command line. ASK(prompt) gives a line, None at its end;
    SAY(text) shows one; READ_START(disk) gives the disk's first bytes; SET_KEYMAP(name) says whether there is
    such a layout; ROOM is what a disk needs, in bytes. Raises NoChoice.
    """
    refuse_silent_mode(cmdline)
    offered, left_out = sort_disks(blockdevices, cmdline, room)
    windows = ending.windows_open(cmdline)
    for disk in offered:
        disk["contents"] = describe_contents(disk, read_start(disk))
    show_disks(offered, left_out, say)
    if not offered and not windows:
        raise NoChoice(
            f"there is no disk to install to; attach one of at least {in_gib(room)} GiB that isn't in use, "
            "and start again"
        )
    keymap, language = "us", "en_US.UTF-8"
    say(f"The keyboard layout is {keymap}, also for the passphrase; the language is {language}.")
    say(
        "Type its number; or first `keyboard NAME` (de, fr, ...) or `language NAME` (de_DE, fr_FR, ...); or "
        "`quit`" + (";" if windows else ".")
    )
    if windows:
        say("or `custom`, to make partitions yourself, on any disk, in the installer's windows.")
    while True:
        line = ask("Install to which disk? ")
        answer = (line or "quit").strip()
        if answer == "quit":
            raise NoChoice("no disk was chosen, nothing was changed; start again when you like")
        if answer == "custom" and windows:
            say("The installer's windows open next. Encrypt there (LUKS2) all except /boot and the EFI")
            say(f"partition, and give / {in_gib(room)} GiB; else what is installed is refused at the end.")
            return None, keymap, language
        if answer.startswith("keyboard "):
            keymap = change_keymap(keymap, answer.split(None, 1)[1], say, set_keymap)
            continue
        if answer.startswith("language "):
            language = change_language(language, answer.split(None, 1)[1], say)
            continue
        disk = disk_of_number(offered, answer)
        if answer == "custom":
            say("For partitions of your own, start this medium again and choose its second entry.")
        elif disk is None:
            say(f"Type a number from 1 to {len(offered)}.")
        elif may_erase(disk, ask):
            return disk, keymap, language
        else:
            say("That is not its name: nothing was changed.")


def show_disks(offered, left_out, say):
    """Say which disks can be chosen, by number, and which cannot and why."""
    say("")
    say("veilor-os erases one disk and takes all of it. Disks of this machine:")
    for number, disk in enumerate(offered, 1):
        about = " ".join(filter(None, (disk.get("model"), disk.get("serial")))) or "no model name"
        say(
            f"  {number}) {disk['name']}  {disk['size'] / GiB:.1f} GiB  {disk['contents'] or 'empty'}  "
            f"({about.strip()})"
        )
    for name, reason in left_out:
        say(f"     {name} is left out: {reason}")


def change_keymap(keymap, name, say, set_keymap):
    """The keyboard layout after NAME was asked for: KEYMAP stays when there is no such layout."""
    if set_keymap(name):
        keymap = name
    if keymap == name:
        say(f"The keyboard layout is {keymap}.")
    else:
        say(f"There is no keyboard layout {name} here.")
    return keymap


def change_language(language, typed, say):
    """The language after TYPED was asked for: LANGUAGE stays when that is none."""
    locale = parse_language(typed)
    if not locale:
        say("A language is typed like de_DE or pt_BR.")
        return language
    say(f"The language is {locale}.")
    return locale


def disk_of_number(offered, answer):
    """The disk of OFFERED that ANSWER numbers, from 1 on; None for anything else."""
    if not answer.isascii():  # other scripts' digits are digits to Python as well
        return None
    if not answer.isdigit():
        return None
    if not 1 <= int(answer) <= len(offered):
        return None
    return offered[int(answer) - 1]


def may_erase(disk, ask):
    """Whether DISK may be erased: it is empty, or its name was typed when asked for."""
    if not disk["contents"]:
        return True
    typed = ask(
        f"Everything on {disk['name']} ({disk['contents']}) will be lost. Type {disk['name']} to erase it: "
    )
    return typed is not None and typed.strip() == disk["name"]


def offer_trust(ask, show):
    """Ask whether the firmware shall trust the kernel's key; the code that confirms it, or None.

    ASK(prompt) gives a line, None at its end; SHOW(text) shows one to the person alone.
    """
    show("")
    show("Secure Boot is on, and may not know the key that this system's kernel is signed with.")
    answer = ask("Have it trusted, confirmed by you at the next start? Type yes or no: ")
    if (answer or "no").strip().lower() not in ("y", "yes"):
        show("Not asked for. With Secure Boot on this system starts only where that key is trusted already.")
        return None
    code = f"{secrets.randbelow(10**8):08}"
    show("At the next start a blue screen comes up for ten seconds: press a key, then choose")
    show("  Enroll MOK > Continue > Yes, type this code, and Reboot.")
    show(f"      {code}")
    ask("Write the code down, then press Enter. ")
    return code


def write_file(path, text):
    """Write TEXT to PATH, whole or not at all."""
    with open(path + ".new", "w") as out:
        out.write(text)
    os.rename(path + ".new", path)


def main():
    """Ask, and write TARGET, for `custom` GUIDED as well; the exit code."""
    terminal = ending.Terminal()
    if not terminal.writing:
        return ending.end("there is no terminal to ask at; nothing was changed", terminal)

    def say(text):
        terminal.say(text)
        print(text, flush=True)

    def read_start(disk):
        with open(disk["path"], "rb") as device:
            return device.read(1 << 20)

    try:
        size = unpacked(IMAGE)
        listed = json.loads(subprocess.run(LSBLK, capture_output=True, check=True, timeout=60).stdout)
        with open("/proc/cmdline") as cmdline:
            disk, keymap, language = choose(
                listed["blockdevices"], cmdline.read(), terminal.ask, say, read_start, room=needed_room(size)
            )
        code = offer_trust(terminal.ask, terminal.say) if asks_for_trust(IMAGE, SECURE_BOOT) else None
        if code:
            write_file(MOK_CODE, code)
        write_file(ROOM, str(size))
        write_file(TARGET, target_text(disk, keymap, language))
        if disk is None:
            write_file(GUIDED, "")
    except NoChoice as why:
        return ending.end(why, terminal)
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        return ending.end(
            f"the disks of this machine could not be listed ({error}); nothing was changed", terminal
        )
    say(f"Installing to {disk['name']}." if disk else "Partitions are yours to make.")
    if disk:
        say("The installer asks for the passphrase next, twice. Until it has one, nothing is erased.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
