"""Asks on the console for disk, keyboard and language, and writes /tmp/veilor-target.ks from the answers.

Never offered: the installation medium, anything in use, read-only or smaller than MINIMUM. A disk that isn't
empty is taken only when its name is typed as well. Who types `custom` makes the partitions in the installer's
own windows instead. Nothing is written to any disk here. Exit codes: 0 chosen, 1 not.
"""

import json
import os
import re
import subprocess
import sys

TARGET = "/tmp/veilor-target.ks"
GUIDED = "/tmp/veilor-guided.ks"  # how the chosen disk is laid out, and that the installer asks as text
GiB = 1 << 30
MINIMUM = 12 * GiB
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


def why_not(disk, labels):
    """Why DISK can't be installed to; an empty text when it can.

    DISK is a node of lsblk's tree, LABELS are the volume labels of the medium.
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
    if disk["size"] < MINIMUM:
        return f"smaller than {MINIMUM // GiB} GiB"
    return ""


def is_disk(node):
    """Whether NODE of lsblk's tree is a disk that could hold something."""
    if node["type"] != "disk":
        return False
    if node["name"].startswith(NOT_DISKS):
        return False
    return bool(node["size"])


def sort_disks(blockdevices, cmdline):
    """(disks to offer, [(name, why not)]) from lsblk's `blockdevices` and the kernel's command line."""
    labels = medium_labels(cmdline)
    offered, left_out = [], []
    for disk in blockdevices:
        if not is_disk(disk):
            continue
        reason = why_not(disk, labels)
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


def choose(blockdevices, cmdline, ask, say, read_start, set_keymap=use_keymap):
    """Ask until a disk is chosen; (disk, keymap, language), where the disk is None for `custom`.

    BLOCKDEVICES are lsblk's, CMDLINE is the kernel's command line. ASK(prompt) gives a line, None at its end;
    SAY(text) shows one; READ_START(disk) gives the disk's first bytes; SET_KEYMAP(name) says whether there is
    such a layout. Raises NoChoice.
    """
    refuse_silent_mode(cmdline)
    offered, left_out = sort_disks(blockdevices, cmdline)
    for disk in offered:
        disk["contents"] = describe_contents(disk, read_start(disk))
    show_disks(offered, left_out, say)
    if not offered:
        raise NoChoice(
            f"no disk to install to; attach one of at least {MINIMUM // GiB} GiB that isn't in use, and "
            "start again"
        )
    keymap, language = "us", "en_US.UTF-8"
    say(f"The keyboard layout is {keymap}, also for the passphrase; the language is {language}.")
    say(
        "Type its number; or first `keyboard NAME` (de, fr, ...) or `language NAME` (de_DE, fr_FR, ...); or "
        "`quit`;"
    )
    say("or `custom`, to make partitions yourself, on any disk, in the installer's windows.")
    while True:
        line = ask("Install to which disk? ")
        answer = (line or "quit").strip()
        if answer == "quit":
            raise NoChoice("no disk was chosen, nothing was changed; start again when you like")
        if answer == "custom":
            say(
                "The installer's windows open next. Encrypt / there (LUKS2), or what is installed will be "
                "refused at the end."
            )
            return None, keymap, language
        if answer.startswith("keyboard "):
            keymap = change_keymap(keymap, answer.split(None, 1)[1], say, set_keymap)
            continue
        if answer.startswith("language "):
            language = change_language(language, answer.split(None, 1)[1], say)
            continue
        disk = disk_of_number(offered, answer)
        if disk is None:
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


def open_terminal():
    """(reading, writing, give_back) on the terminal that the person sits at; call GIVE_BACK at the end."""
    try:
        # The installer runs in tmux, shown on the screen and on a serial console alike; its pane is ours.
        return open("/dev/tty"), open("/dev/tty", "w"), lambda: None
    except OSError:
        pass
    with open("/sys/class/tty/console/active") as active:
        name = active.read().split()[-1]
    if name != "tty0":
        return open(f"/dev/{name}"), open(f"/dev/{name}", "w"), lambda: None
    # A screen of its own: another program reads from the one in front.
    subprocess.run(["chvt", "6"], timeout=20)
    return open("/dev/tty6"), open("/dev/tty6", "w"), lambda: subprocess.run(["chvt", "1"], timeout=20)


def write_file(path, text):
    """Write TEXT to PATH, whole or not at all."""
    with open(path + ".new", "w") as out:
        out.write(text)
    os.rename(path + ".new", path)


def main():
    """Ask, and write TARGET, for `custom` GUIDED as well; the exit code."""
    try:
        reading, writing, give_back = open_terminal()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"Not installed: there is no terminal to ask at ({error}); nothing was changed.")
        return 1

    def say(text):
        print(text, file=writing, flush=True)
        print(text)

    def ask(prompt):
        writing.write(prompt)
        writing.flush()
        return reading.readline() or None

    def read_start(disk):
        with open(disk["path"], "rb") as device:
            return device.read(1 << 20)

    try:
        listed = json.loads(subprocess.run(LSBLK, capture_output=True, check=True, timeout=60).stdout)
        with open("/proc/cmdline") as cmdline:
            disk, keymap, language = choose(listed["blockdevices"], cmdline.read(), ask, say, read_start)
        write_file(TARGET, target_text(disk, keymap, language))
        if disk is None:
            write_file(GUIDED, "graphical\n")
    except NoChoice as why:
        say(f"Not installed: {why}.")
        return 1
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        say(f"Not installed: the disks of this machine could not be listed ({error}); nothing was changed.")
        return 1
    finally:
        give_back()
    say(f"Installing to {disk['name']}." if disk else "Partitions are yours to make.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
