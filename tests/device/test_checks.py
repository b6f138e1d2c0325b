"""What a boot is judged by: what a person needs, a login, and what the version before has as well."""

from __future__ import annotations

import errno
import shutil

import pytest

from veilor.device import checks

OPEN = '{"default": [{"type": "insecureAcceptAnything"}]}'


def desktop(machine) -> None:
    """A desktop is installed and starting it is the target; its login screen is up."""
    machine.put("usr/share/wayland-sessions/plasma.desktop", "")
    machine.change("units", **{"default.target": {"Id": "graphical.target"}})
    screen_shows(machine, [GREETER])


def screen_shows(machine, *answers: list[dict]) -> None:
    """What logind lists, time after time."""
    machine.load()
    machine.world["sessions"] = list(answers)
    machine.save()


GREETER = {"session": "c1", "uid": 963, "user": "plasmalogin", "seat": "seat0", "class": "greeter"}
SECOND_GREETER = GREETER | {"session": "c2"}
PERSON = {"session": "2", "uid": 1000, "user": "ada", "seat": "seat0", "class": "user"}
REMOTE = PERSON | {"seat": None}
MANAGER = PERSON | {"class": "manager", "seat": None}


def mask_unit(machine, name: str, by_image: bool) -> None:
    for folder in ("etc", "usr/etc")[: 1 + by_image]:
        link = machine.root / folder / "systemd/system" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("/dev/null")


def show_state(machine, name: str, **state) -> None:
    machine.change("units", **{name: state})


DEAD = {"ActiveState": "failed"}
MASKED = {"ActiveState": "inactive", "LoadState": "masked"}


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        (lambda m: (m.root / "run/udev/data/c13:64").unlink(), "no keyboard is there"),
        (lambda m: m.put("run/udev/data/c13:64", "E:ID_INPUT_MOUSE=1\n"), "no keyboard is there"),
        (lambda m: m.put("run/udev/data/c13:64", "E:ID_INPUT_KEY=1\n"), "no keyboard is there"),
        (lambda m: show_state(m, checks.NETWORK, **DEAD), "NetworkManager.service is failed"),
        (lambda m: show_state(m, checks.NETWORK, ActiveState="activating"), "is activating"),
        (lambda m: (mask_unit(m, checks.NETWORK, True), show_state(m, checks.NETWORK, **MASKED)), "(masked)"),
        (lambda m: show_state(m, checks.SCREEN, **DEAD), "display-manager.service is failed"),
        (lambda m: show_state(m, checks.SCREEN, LoadState="not-found", ActiveState="inactive"), "not-found"),
        (lambda m: screen_shows(m, []), "no login screen has come up"),
        (lambda m: screen_shows(m, [REMOTE], [REMOTE]), "no login screen has come up"),
        (lambda m: screen_shows(m, *[[GREETER], [SECOND_GREETER]] * 40), "does not stay up"),
        (lambda m: screen_shows(m, *[[GREETER], []] * 40), "does not stay up"),
        (lambda m: m.change("fail", **{"loginctl list-sessions": "x"}), "no login screen has come up"),
        (lambda m: (shutil.rmtree(m.root / "var/home"), m.put("var/home", "")), "cannot be written"),
    ],
)
def test_what_a_person_needs_is_looked_at(machine, sabotage, words):
    machine.deployments(machine.entry("44.1"))
    desktop(machine)
    done = machine.moment("check")
    assert done.code == 0, done.err
    sabotage(machine)
    done = machine.moment("check")
    assert done.code == 1 and words in done.err, done.out + done.err


def link(machine, path: str, target: str) -> None:
    file = machine.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)


OFF = {
    "network masked": (checks.NETWORK, lambda m: mask_unit(m, checks.NETWORK, by_image=False)),
    "screen masked": (checks.SCREEN, lambda m: mask_unit(m, checks.SCREEN, by_image=False)),
    "what the screen stands for masked": (
        checks.SCREEN,
        lambda m: (
            mask_unit(m, "plasmalogin.service", by_image=False),
            show_state(m, checks.SCREEN, Id="plasmalogin.service"),
        ),
    ),
    "network disabled": (
        checks.NETWORK,
        lambda m: link(m, f"usr/etc/systemd/system/multi-user.target.wants/{checks.NETWORK}", "/usr/lib/x"),
    ),
    "screen disabled": (
        checks.SCREEN,
        lambda m: link(m, f"usr/etc/systemd/system/{checks.SCREEN}", "/usr/lib/systemd/system/x"),
    ),
}


@pytest.mark.parametrize("how", OFF)
def test_a_service_that_the_owner_has_turned_off_is_no_fault_and_no_login_is_waited_for(updated, how):
    desktop(updated)
    name, turn_off = OFF[how]
    show_state(updated, name, **MASKED)
    turn_off(updated)
    screen_shows(updated, [] if name == checks.SCREEN else [GREETER])
    assert updated.power_on(clean=True) == "44.2"
    judge_good_boot(updated)
    assert not updated.world_reboots()
    assert bool(updated.armed) == (name != checks.SCREEN)


def test_where_a_text_login_is_the_target_that_is_what_has_to_wait(machine):
    machine.deployments(machine.entry("44.1"))
    desktop(machine)
    show_state(machine, checks.SCREEN, **DEAD)
    show_state(machine, "default.target", Id="multi-user.target")
    assert machine.moment("check").code == 0
    show_state(machine, "getty@tty1.service", **DEAD)
    assert "getty@tty1.service is failed" in machine.moment("check").err


def test_a_login_screen_that_comes_late_or_restarts_once_is_no_fault(machine):
    machine.deployments(machine.entry("44.1"))
    desktop(machine)
    screen_shows(machine, [], [], [GREETER], [SECOND_GREETER], [SECOND_GREETER])
    assert machine.moment("check").code == 0


def judge_good_boot(machine) -> None:
    assert machine.moment("check").code == 0
    machine.moment("healthy")


def test_on_a_desktop_only_a_login_proves_a_version(updated):
    desktop(updated)
    assert updated.power_on(clean=True) == "44.2"
    judge_good_boot(updated)
    assert updated.grub["veilor_counter"] == "2" and updated.armed
    updated.moment("deadline")
    assert not updated.world_reboots(), "what has passed its checks is restarted by nobody but the person"
    assert (
        updated.text("run/veilor/awaits-login") == "" and (updated.root / "run/veilor/awaits-login").exists()
    )
    screen_shows(updated, [GREETER], [GREETER], [GREETER, MANAGER], [GREETER, REMOTE], [PERSON])
    updated.moment("login")
    assert "veilor_counter" not in updated.grub and not updated.armed
    assert updated.power_on() == "44.2"


def test_a_login_that_was_faster_than_the_check_is_enough(updated):
    desktop(updated)
    updated.power_on(clean=True)
    screen_shows(updated, [PERSON])
    judge_good_boot(updated)
    assert not updated.armed and not (updated.root / "run/veilor/awaits-login").exists()


def test_a_black_login_screen_leads_back_and_is_offered_once_more(updated):
    """All checks are good, and each time the person has to switch the machine off."""
    desktop(updated)
    for round_ in range(2):
        for number in range(3):
            assert updated.power_on(clean=number == 0) == "44.2"
            judge_good_boot(updated)
        assert updated.power_on() == "44.1"
        assert "nobody logged in" in updated.text("run/motd.d/50-veilor")
        judge_good_boot(updated)
        assert not updated.status["rollbackQueued"] and "veilor_counter" not in updated.grub
        expected = "held" if round_ else "ready"
        assert updated.program("update", "--json").data["state"] == expected


def test_the_one_before_is_not_restarted_while_nobody_logs_in(updated):
    desktop(updated)
    for number in range(3):
        updated.power_on(clean=number == 0)
    for _ in range(5):
        assert updated.power_on() == "44.1"
        judge_good_boot(updated)
        assert "veilor_counter" not in updated.grub and not updated.armed


# -- what the version before has as well


def test_what_the_owner_changed_before_the_restart_is_not_held_against_the_new_version(updated):
    updated.put("etc/containers/policy.json", OPEN)
    told = []
    for _ in range(3):
        assert updated.power_on(clean=True) == "44.2"
        updated.judge_boot()
        told.append(updated.text("run/motd.d/50-veilor"))
    assert not updated.world_reboots() and "veilor_counter" not in updated.grub
    assert not updated.json("var/lib/veilor/state.json").get("held_back")
    assert "the container policy" in told[0] and "The version before has the same" in told[0]


@pytest.mark.parametrize("same", [True, False])
def test_a_machine_without_a_keyboard_keeps_getting_updates(machine, same):
    machine.deployments(machine.entry("44.1"), rollback=machine.bootstrap(pinned=True))
    keyboard = machine.root / "run/udev/data/c13:64"
    if same:
        keyboard.unlink()
    machine.moment("unlocked")
    machine.judge_boot()
    machine.release("44.2")
    assert machine.program("update").code == 0
    keyboard.unlink(missing_ok=True)
    assert machine.power_on(clean=True) == "44.2"
    machine.judge_boot()
    assert machine.world_reboots() == (0 if same else 1), "what is new with a version counts against it"


# -- while it is not proved


def test_what_nobody_has_proved_is_no_way_back_from_the_next(updated):
    """A black login screen, and the timer finds the next version: that is downloaded, and no more."""
    desktop(updated)
    assert updated.power_on(clean=True) == "44.2"
    judge_good_boot(updated)
    updated.release("44.3")
    done = updated.program("update", "--json")
    assert done.data["state"] == "downloaded" and "not proved itself yet" in done.data["means"]
    assert updated.armed == updated.digest("44.2") and updated.grub["veilor_counter"] == "2"
    (updated.root / "run/ostree/staged-deployment-locked").touch()
    updated.moment("count")
    updated.moment("settle")
    assert updated.grub["veilor_counter"] == "2"
    for _ in range(2):
        assert updated.power_on() == "44.2"
        judge_good_boot(updated)
    assert updated.power_on() == "44.1", "the way back is still there"


def test_somebody_who_is_logged_in_proves_it_by_asking_for_the_next(updated):
    desktop(updated)
    updated.power_on(clean=True)
    judge_good_boot(updated)
    screen_shows(updated, [PERSON])
    updated.release("44.3")
    assert updated.program("update", "--json").data["state"] == "ready"
    assert updated.armed == updated.digest("44.3") and "veilor_counter" not in updated.grub
    healthy = updated.json("var/lib/veilor/health.json")["healthy"]
    assert updated.digest("44.2") in [one["digest"] for one in healthy]


def test_nobody_is_restarted_at_their_work(updated):
    desktop(updated)
    updated.power_on(clean=True)
    show_state(updated, checks.NETWORK, **DEAD)
    screen_shows(updated, [PERSON])
    updated.judge_boot()
    updated.moment("deadline")
    assert not updated.world_reboots()
    assert "since somebody is logged in" in updated.text("run/motd.d/50-veilor")
    assert updated.armed, "it has not proved itself: the next start is counted on"


def test_a_rescue_shell_is_left_alone(updated):
    updated.power_on(clean=True)
    show_state(updated, "rescue.target", ActiveState="active")
    updated.moment("deadline")
    assert not updated.world_reboots()


def test_a_text_login_that_was_asked_for_once_is_judged_as_one_and_proves_nothing(updated):
    desktop(updated)
    show_state(updated, checks.SCREEN, ActiveState="inactive")
    show_state(updated, "graphical.target", ActiveState="inactive")
    screen_shows(updated, [])
    updated.power_on(clean=True)
    judge_good_boot(updated)
    assert updated.armed
    screen_shows(updated, [PERSON | {"tty": "tty1"}])
    updated.moment("login")
    assert not updated.armed


def test_a_full_disk_does_not_keep_a_login_from_proving_a_version(updated, monkeypatch):
    from veilor.device.run import DeviceError

    desktop(updated)
    updated.power_on(clean=True)
    real = checks.state.replace_file

    def refuse(path, data, mode):
        if path.startswith("/var"):
            raise DeviceError(f"{path} cannot be written", facts={"errno": errno.ENOSPC})
        real(path, data, mode)

    monkeypatch.setattr(checks.state, "replace_file", refuse)
    judge_good_boot(updated)
    assert (updated.root / "run/veilor/awaits-login").exists()
    screen_shows(updated, [PERSON])
    updated.moment("login")
    assert "veilor_counter" not in updated.grub


def test_hangs_after_one_good_boot_are_no_absent_person(updated):
    desktop(updated)
    updated.power_on(clean=True)
    judge_good_boot(updated)
    for _ in range(2):
        updated.power_on()
    assert updated.power_on() == "44.1"
    assert "never came to the end of its health check" in updated.text("run/motd.d/50-veilor")
