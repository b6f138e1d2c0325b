"""Login screen and splash for people with a screen reader or a keyboard, and at 200 %; nothing moves.

The real greeter and the real splash run in the desktop tree as somebody who is not root, and answer on the
accessibility bus.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from veilor.pictures.desktop import PERSON, DesktopTools

WALK = Path(__file__).with_name("walk.py")
THEME = "usr/share/sddm/themes/veilor"
SPLASH = "usr/share/plasma/look-and-feel/org.veilor.dark.desktop/contents/splash/Splash.qml"
MOVES = re.compile(
    r"\b(?:\w*Animation|\w*Animator|Transition|AnimatedImage|AnimatedSprite|ParticleSystem)\s*\{|\bBehavior\s+on\b"
)


class Person(DesktopTools):
    """The desktop tree with a person in it, whom its programs find in /etc/passwd."""

    as_person = True

    def __init__(self, root: Path, people: Path) -> None:
        super().__init__(root)
        self.people = people

    def argv(self, *arguments, **more) -> list[str]:
        whole = super().argv(*arguments, **more)
        end = whole.index("--")
        return [*whole[:end], "--ro-bind", str(self.people), "/etc/passwd", *whole[end:]]


def ask(
    stage: DesktopTools,
    place: Path,
    program: list[str],
    *,
    tabs: int = 0,
    size: str = "1280x800",
    scale: str = "1",
) -> dict:
    """What PROGRAM, whose files lie in the folder PLACE, tells the accessibility bus."""
    env = {"QT_SCALE_FACTOR": scale, "XDG_DATA_DIRS": f"{place}/usr/share:/usr/share", "LANG": "C.UTF-8"}
    done = stage.run(
        ["python3", "-I", str(WALK), size, str(tabs), *program],
        binds=[WALK.parent, place],
        env=env,
        timeout=240,
    )
    return json.loads(done.stdout)


def greeter(stage: DesktopTools, place: Path, **more) -> dict:
    return ask(stage, place, ["sddm-greeter-qt6", "--test-mode", "--theme", str(place / THEME)], **more)


def called(node: dict) -> str:
    """The name of NODE. Qt gives a password field a description alone, since its text may not be read."""
    return node["name"] or node["description"]


def nameless(seen: dict) -> list[dict]:
    return [node for node in seen["all"] if node["focusable"] and not called(node)]


@pytest.fixture(scope="module")
def person(desktop, tmp_path_factory) -> Person:
    people = tmp_path_factory.mktemp("people") / "passwd"
    people.write_text((desktop.root / "etc/passwd").read_text() + PERSON)
    return Person(desktop.root, people)


@pytest.fixture(scope="module")
def login(person, tree) -> dict:
    return greeter(person, tree, tabs=8)


def changed(tree: Path, tmp_path: Path, name: str, old: str, new: str) -> Path:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, symlinks=True)
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    return copy


def test_every_control_of_the_login_screen_has_a_name(login):
    assert {"User name", "Password", "Log in"} <= {called(node) for node in login["all"] if node["focusable"]}
    assert not nameless(login)


def test_a_control_without_a_name_is_found(person, tree, tmp_path):
    copy = changed(
        tree,
        tmp_path,
        f"{THEME}/Main.qml",
        'placeholderText: "User name"\n            Accessible.name: "User name"\n',
        "",
    )
    assert nameless(greeter(person, copy))


def test_tab_goes_through_every_control_and_comes_round(login):
    order = [called(node) for node in login["walk"]]
    assert order[:2] == ["Password", "Log in"], "the only person's name stands there already"
    assert "User name" in order
    controls = {called(node) for node in login["all"] if node["focusable"]}
    assert set(order) == controls and order[len(controls)] == order[0]


def test_a_tab_key_that_leads_nowhere_is_found(person, tree, tmp_path):
    copy = changed(
        tree, tmp_path, f"{THEME}/Main.qml", "KeyNavigation.tab: enter", "KeyNavigation.tab: password"
    )
    seen = greeter(person, copy, tabs=8)
    assert "Log in" not in [called(node) for node in seen["walk"]]


@pytest.mark.parametrize(("size", "scale"), [("800x600", 1), ("1920x1200", 2), ("2560x1600", 2)])
def test_every_control_is_on_the_screen(person, tree, size, scale):
    width, height = (int(number) / scale for number in size.split("x"))
    boxes = [
        node["box"] for node in greeter(person, tree, size=size, scale=str(scale))["all"] if node["focusable"]
    ]
    assert len(boxes) >= 4
    assert all(
        x >= 0 and y >= 0 and x + wide <= width and y + high <= height and high >= 40
        for x, y, wide, high in boxes
    ), boxes


def test_the_splash_says_what_it_is(person, tree):
    seen = ask(person, tree, ["ksplashqml", "--test", "--window", "org.veilor.dark.desktop"])
    assert ("progress bar", "The desktop is starting") in {
        (node["role"], node["name"]) for node in seen["all"]
    }


@pytest.mark.parametrize("name", [f"{THEME}/Main.qml", SPLASH])
def test_nothing_moves(tree, name):
    text = (tree / name).read_text()
    assert not MOVES.search(text)
    assert MOVES.search(text + "NumberAnimation { duration: 200 }") and MOVES.search(
        text + "Behavior on x { }"
    )
