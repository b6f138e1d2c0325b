"""Asks on the console which disk to install to, which keyboard and language, and writes /tmp/veilor-target.ks
from it.

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
NOT_DISKS = ("zram", "ram", "fd", "nbd")


class NoChoice(Exception):
    """Why there is no disk to install to, in one line."""


def whole(node):
    """NODE of lsblk's tree and everything on it."""
    return [node] + [below for child in node.get("children") or [] for below in whole(child)]


def medium_labels(cmdline):
    """The volume labels that the kernel's command line says the medium has."""
    return {label.replace("\\x20", " ") for label in re.findall(r"(?:CDLABEL|LABEL)=([^:\s]+)", cmdline)}


def why_not(disk, labels):
    """Why DISK can't be installed to, or an empty text. DISK is a node of lsblk's tree, LABELS are the
    medium's.
    """
    nodes = whole(disk)
    if any(node.get("label") in labels for node in nodes if node.get("label")):
        return "the installation medium"
    mounted = [point for node in nodes for point in node.get("mountpoints") or [] if point]
    if any(point.startswith(("/run/install", "/run/initramfs")) for point in mounted):
        return "the installation medium"
    if mounted:
        return f"in use: {mounted[0]}"
    if disk["ro"]:
        return "read-only"
    if disk["size"] < MINIMUM:
        return f"smaller than {MINIMUM // GiB} GiB"
    return ""


def sort_disks(blockdevices, cmdline):
    """(disks to offer, [(name, why not)]) from lsblk's `blockdevices` and the kernel's command line."""
    offered, left_out = [], []
    for disk in blockdevices:
        if disk["type"] != "disk" or disk["name"].startswith(NOT_DISKS) or not disk["size"]:
            continue
        reason = why_not(disk, medium_labels(cmdline))
        if reason:
            left_out.append((disk["name"], reason))
        else:
            offered.append(disk)
    return offered, left_out


def contents(disk, first_bytes):
    """What is on DISK in a few words, or an empty text when lsblk and its FIRST_BYTES know of nothing."""
    parts = [node for node in whole(disk)[1:] if node["type"] == "part"]
    if parts:
        return f"{len(parts)} partition{'s' if len(parts) > 1 else ''}"
    if disk.get("fstype"):
        return disk["fstype"]
    return "a partition table" if disk.get("pttype") else "unknown data" if first_bytes.strip(b"\0") else ""


def target(disk, keymap, language):
    """The text of TARGET: only DISK is used, only it is erased, entry by entry; without a DISK nothing is
    said of any.
    """
    asked = [f"keyboard --vckeymap={keymap}", f"lang {language}", ""]
    if disk is None:
        return "\n".join(asked)
    parts = [node["name"] for node in whole(disk) if node["type"] == "part"]
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
    """Switch the console to keyboard layout NAME; whether that went well."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name):
        return False
    try:
        return subprocess.run(["loadkeys", name], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def as_language(name):
    """The locale for what was typed (de_DE, or de_DE.UTF-8), or an empty text when it is none."""
    found = re.fullmatch(r"([a-z]{2,3}_[A-Z]{2})(?:\.(?:UTF-8|utf8))?", name)
    return f"{found[1]}.UTF-8" if found else ""


def refuse_mode(cmdline):
    """Raises NoChoice where the installer was told not to ask anybody: it could not ask for the passphrase
    either.
    """
    silent = {"inst.cmdline", "inst.noninteractive"} & set(cmdline.split())
    if silent:
        raise NoChoice(
            f"with {sorted(silent)[0]} the installer can't ask for the passphrase; nothing was changed, "
            "start again without it"
        )


def choose(blockdevices, cmdline, ask, say, read_start, set_keymap=use_keymap):
    """Ask until a disk is chosen; (disk, keymap, language), the disk None for `custom`. ASK(prompt) gives a
    line, None at its end.

    Raises NoChoice.
    """
    keymap, language = "us", "en_US.UTF-8"
    refuse_mode(cmdline)
    offered, left_out = sort_disks(blockdevices, cmdline)
    say("")
    say("veilor-os erases one disk and takes all of it. Disks of this machine:")
    for number, disk in enumerate(offered, 1):
        disk["contents"] = contents(disk, read_start(disk))
        about = " ".join(filter(None, (disk.get("model"), disk.get("serial")))) or "no model name"
        say(
            f"  {number}) {disk['name']}  {disk['size'] / GiB:.1f} GiB  {disk['contents'] or 'empty'}  "
            f"({about.strip()})"
        )
    for name, reason in left_out:
        say(f"     {name} is left out: {reason}")
    if not offered:
        raise NoChoice(
            f"no disk to install to; attach one of at least {MINIMUM // GiB} GiB that isn't in use, and "
            "start again"
        )
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
            name = answer.split(None, 1)[1]
            if set_keymap(name):
                keymap = name
            say(
                f"The keyboard layout is {keymap}."
                if keymap == name
                else f"There is no keyboard layout {name} here."
            )
            continue
        if answer.startswith("language "):
            named = as_language(answer.split(None, 1)[1])
            language = named or language
            say(f"The language is {language}." if named else "A language is typed like de_DE or pt_BR.")
            continue
        if not answer.isascii() or not answer.isdigit() or not 1 <= int(answer) <= len(offered):
            say(f"Type a number from 1 to {len(offered)}.")
            continue
        disk = offered[int(answer) - 1]
        if not disk["contents"]:
            return disk, keymap, language
        typed = ask(
            f"Everything on {disk['name']} ({disk['contents']}) will be lost. Type {disk['name']} to erase "
            "it: "
        )
        if typed is not None and typed.strip() == disk["name"]:
            return disk, keymap, language
        say("That is not its name: nothing was changed.")


def open_terminal():
    """(reading, writing, way back) on the terminal the person sits at."""
    try:
        # The installer runs in tmux, shown on the screen and on a serial console alike; its pane is ours.
        return open("/dev/tty"), open("/dev/tty", "w"), lambda: None
    except OSError:
        pass
    with open("/sys/class/tty/console/active") as active:
        name = active.read().split()[-1]
    if name != "tty0":
        return open(f"/dev/{name}"), open(f"/dev/{name}", "w"), lambda: None
    subprocess.run(
        ["chvt", "6"], timeout=20
    )  # a screen of its own: another program reads from the one in front
    return open("/dev/tty6"), open("/dev/tty6", "w"), lambda: subprocess.run(["chvt", "1"], timeout=20)


def main():
    """Choose and write TARGET; the exit code."""
    try:
        reading, writing, back = open_terminal()
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
        made = {TARGET: target(disk, keymap, language), **({} if disk else {GUIDED: "graphical\n"})}
        for path, text in made.items():
            with open(path + ".new", "w") as out:
                out.write(text)
            os.rename(path + ".new", path)
    except NoChoice as why:
        say(f"Not installed: {why}.")
        return 1
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        say(f"Not installed: the disks of this machine could not be listed ({error}); nothing was changed.")
        return 1
    finally:
        back()
    say(f"Installing to {disk['name']}." if disk else "Partitions are yours to make.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
