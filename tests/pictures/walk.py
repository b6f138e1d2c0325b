"""Starts a program on a display in memory, and prints as JSON what a screen reader learns of it.

Called inside the desktop tree as `python3 -I walk.py WIDTHxHEIGHT TABS PROGRAM…`. It prints {"all": [NODE…],
"walk": [NODE…]}, where NODE is {"role", "name", "description", "focusable", "box": [x, y, width, height]}.
"all" are the nodes that show; "walk" are those that had the focus, at first and after each of TABS presses of
Tab. Standard library and the accessibility bus's own binding.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gi

gi.require_version("Atspi", "2.0")
from gi.repository import Atspi, GLib  # noqa: E402

BUS = "unix:path=/tmp/bus"
PATIENCE = 90  # seconds


def until(what, ready):
    """Wait until READY gives something true, and return that."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            found = ready()
        except (
            GLib.Error,
            OSError,
            subprocess.CalledProcessError,
        ):  # it is not there yet, or went away meanwhile
            found = None
        if found:
            return found
        time.sleep(0.4)
    raise SystemExit(f"{what} did not come within {PATIENCE} s")


def with_descendants(node):
    """NODE and every node below it that the bus shows."""
    yield node
    for place in range(node.get_child_count()):
        child = node.get_child_at_index(place)
        if child:
            yield from with_descendants(child)


def has(node, state):
    return node.get_state_set().contains(state)


def describe_node(node):
    """NODE as it is printed; its box is None where it has no place on the screen."""
    box = node.get_component_iface() and node.get_extents(Atspi.CoordType.SCREEN)
    return {
        "role": node.get_role_name(),
        "name": node.get_name(),
        "description": node.get_description(),
        "focusable": has(node, Atspi.StateType.FOCUSABLE),
        "box": [box.x, box.y, box.width, box.height] if box else None,
    }


def application():
    desktop = Atspi.get_desktop(0)
    found = [desktop.get_child_at_index(place) for place in range(desktop.get_child_count())]
    return next(
        (
            one
            for one in found
            if one
            and any(has(node, Atspi.StateType.SHOWING) for node in with_descendants(one) if node != one)
        ),
        None,
    )


def main():
    size, tabs, *program = sys.argv[1:]
    os.environ.update(
        DISPLAY=":9",
        DBUS_SESSION_BUS_ADDRESS=BUS,
        XDG_RUNTIME_DIR="/tmp/run",
        QT_LINUX_ACCESSIBILITY_ALWAYS_ON="1",
        QT_QUICK_BACKEND="software",
        QT_ACCESSIBILITY="1",
    )
    Path("/tmp/run").mkdir(mode=0o700)
    Path("/tmp/.X11-unix").mkdir(mode=0o1777)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["Xvfb", ":9", "-noreset", "-screen", "0", f"{size}x24"], **quiet)
    subprocess.Popen(["dbus-daemon", "--session", "--nofork", f"--address={BUS}"], **quiet)
    until("the display", lambda: subprocess.run(["xdpyinfo"], **quiet, check=True).returncode == 0)
    until("the bus", Path("/tmp/bus").exists)
    subprocess.Popen(["/usr/libexec/at-spi-bus-launcher", "--launch-immediately"], **quiet)
    subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    Atspi.init()
    top = until(f"{program[0]} on the accessibility bus", application)

    def focused():
        return next(
            (
                node
                for node in with_descendants(top)
                if has(node, Atspi.StateType.FOCUSED) and has(node, Atspi.StateType.FOCUSABLE)
            ),
            None,
        )

    walk = []
    if int(tabs):
        walk.append(describe_node(until("a first focus", focused)))
    for _ in range(int(tabs)):
        subprocess.run(["xdotool", "key", "Tab"], **quiet, check=True)
        time.sleep(0.6)
        now = focused()
        walk.append(describe_node(now) if now else None)
    shown = [describe_node(node) for node in with_descendants(top) if has(node, Atspi.StateType.SHOWING)]
    print(json.dumps({"all": shown, "walk": walk}))
    sys.stdout.flush()
    os._exit(0)


main()
