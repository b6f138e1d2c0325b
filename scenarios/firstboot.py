"""First boots in trouble: no network, a login page, a wrong clock, others' changes, kill -9."""

from __future__ import annotations

import json
import random
import secrets
from pathlib import Path

from veilor.lab.evidence import image_digest
from veilor.lab.machine import REGISTRY_ADDRESS
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks
from veilor.lab.world import UNLOCK_TIMEOUT, World

AFTER = "life:install"
STORY = (
    "A freshly installed machine met no network, a login page, a wrong clock, changes by others and "
    "kill -9 before its first move"
)
PROGRAM, UNIT = "veilor-firstboot-rebase", "veilor-firstboot-rebase.service"
DONE = "/var/lib/veilor/firstboot-done"
TAP = (Path(__file__).parent / "guest/tap.sh").read_text()
TAPPED = ("bootc", "ostree", "skopeo", "grub2-editenv", "systemctl")
CHANGING = (
    "bootc switch",
    "ostree admin pin",
    "ostree admin undeploy",
    "grub2-editenv",
    "systemctl disable",
    "skopeo",
)
KILLS = 4
PORTAL = """
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"<h1>Welcome to the hotel</h1>")
http.server.HTTPServer(("127.0.0.1", 80), Page).serve_forever()
"""


def check_waiting_notice(world: World, checks: Checks, words: str, what: str, timeout: float = 240) -> None:
    """Wait until the login message has WORDS; check that console, notice and --status say the same."""
    world.machine.wait_until(
        ["sh", "-c", "cat /run/motd.d/*veilor*"],
        lambda r: words in r.out,
        timeout,
        f"the login message: {words}",
    )
    said = world.login_notice()
    checks.true(f"{what}: the login message says it", words in said, said)
    known = json.loads(world.read_file("/run/veilor/notice.json"))["notices"]["firstboot"]["line"]
    checks.true(f"{what}: so does the desktop's notice", words in known, known, go_on=True)
    console = world.machine.console.text().replace("\n", " ")
    checks.true(f"{what}: so does the console", words in console, console[-400:], go_on=True)
    asked = world.run_program(PROGRAM, "--status", "--json").data
    checks.true(
        f"{what}: so does --status", not asked["done"] and words in (asked["last"] or ""), asked, go_on=True
    )
    plain = "unverified" in said and said.count(". ") > 1
    checks.true(f"{what}: it says that what runs is unverified, and what to do", plain, said, go_on=True)
    checks.equal(f"{what}: nothing is staged", world.bootc_status()["staged"], None)


def wait_signed_image_staged(world: World, digest: str) -> None:
    """Wait until the first boot has staged DIGEST and its unit has ended."""
    world.machine.wait_until(
        ["bootc", "status", "--format=json", "--format-version=1"],
        lambda r: r.code == 0 and image_digest(json.loads(r.out)["status"]["staged"]) == digest,
        400,
        "the first boot to stage the signed image",
    )
    world.machine.wait_unit(UNIT, "inactive", 180)


@phase(
    "waits",
    "No network, a login page, a wrong clock; then the digest of the ISO",
    starts_from="install",
    independent=True,
)
def waits(world: World, checks: Checks) -> None:
    v0 = world.make_image("44.0")
    machine = world.power_on()
    machine.set_link(False)
    world.type_passphrase()
    machine.wait_agent(UNLOCK_TIMEOUT)
    world.wait_startup_end()
    check_waiting_notice(world, checks, "not connected to a network", "no network")
    state = machine.run(["systemctl", "is-active", UNIT, "multi-user.target"], check=False).out.split()
    checks.equal(
        "it waits in the background: the machine is up, and somebody could log in",
        state,
        ["active", "active"],
    )
    done = world.run_program("veilor-update", "--json")
    checks.equal("veilor-update puts it off (3)", done.code, 3, go_on=True)
    checks.equal("for want of a network", done.data.get("finding"), "offline", go_on=True)
    world.take_screenshot("no-network", "No network at the first boot: what the console says")

    honest = world.read_file("/etc/hosts")
    world.write_file("/etc/hosts", honest.replace(REGISTRY_ADDRESS, "127.0.0.1"))
    machine.run(["systemd-run", "--quiet", "--unit=veilor-lab-portal", "python3", "-I", "-c", PORTAL])
    machine.set_link(True)
    check_waiting_notice(world, checks, "login page", "a network's login page")

    now = int(machine.run(["date", "+%s"]).out)
    machine.run(["date", "-s", "@1577836800"])  # 2020: before the registry's certificate is valid
    world.write_file("/etc/hosts", honest)
    check_waiting_notice(world, checks, "clock is most likely wrong", "a wrong clock")
    machine.run(["date", "-s", f"@{now + 60}"])
    check_waiting_notice(world, checks, "did not give what was asked for", "a registry with nothing in it")
    tried = world.run_program(PROGRAM, "--now")
    plain = tried.code == 3 and "nothing was changed" in tried.text.lower()
    checks.true("--now waits for nothing, and says the same", plain, tried.text, go_on=True)

    world.publish(v0)
    wait_signed_image_staged(world, v0.digest)
    status = world.bootc_status()
    checks.equal(
        "the digest of the ISO is fetched under the policy all the same",
        (image_digest(status["staged"]), status["staged"]["image"]["image"].get("signature")),
        (image_digest(status["booted"]), "containerPolicy"),
    )
    notice = world.login_notice()
    plain = "restart when you like" in notice.lower() and "login page" not in notice
    checks.true("the person is told to restart", plain, notice, go_on=True)
    checks.true(
        "the unit has disabled itself",
        machine.run(["systemctl", "is-enabled", UNIT], check=False).out.strip() == "disabled",
    )
    world.shut_down()

    world.boot()
    booted = world.bootc_status()["booted"]
    checks.equal(
        "it boots, verified",
        (image_digest(booted), booted["image"]["image"].get("signature")),
        (v0.digest, "containerPolicy"),
    )
    checks.true("healthy", world.wait_healthy(), world.grub_environment())
    asked = world.run_program(PROGRAM, "--status")
    checks.true(
        "--status says that it is done",
        asked.code == 0 and "moved to veilor-os 44.0" in asked.text,
        asked.text,
        go_on=True,
    )
    again = world.run_program(PROGRAM, "--retry")
    checks.true(
        "--retry begins nothing anew",
        again.code == 0 and "Nothing to begin anew" in again.text,
        again.text,
        go_on=True,
    )
    world.cut_power()


def check_left_alone(world: World, checks: Checks, state: str, says: str) -> None:
    """Check that both programs end with 5 and STATE and change nothing; SAYS is a part of their sentences."""

    def installed_versions() -> tuple[str, str]:
        return world.machine.run(["ostree", "admin", "status"], check=False).out, world.machine.run(
            ["ls", "/ostree/deploy"], check=False
        ).out

    before = installed_versions()
    for argv in ([PROGRAM, "--now", "--json"], ["veilor-update", "--json"]):
        done = world.run_program(*argv)
        line = " ".join(done.data[part] for part in ("what", "means", "next"))
        checks.equal(
            f"{state}: {argv[0]} leaves it alone (5)",
            (done.code, done.data.get("state")),
            (5, state),
            go_on=True,
        )
        checks.true(f"{state}: {argv[0]} says what to do", says in line, line, go_on=True)
    checks.equal(f"{state}: nothing has changed", installed_versions(), before, go_on=True)


def check_foreign_changes(world: World, checks: Checks) -> None:
    """Check that what somebody else did to the machine, in its origin or by staging, is left alone."""
    machine = world.machine
    machine.run(["mount", "-o", "remount,rw", "/sysroot"])
    [origin] = machine.run(["sh", "-c", "ls /sysroot/ostree/deploy/*/deploy/*.origin"]).out.split()
    honest = world.read_file(origin)
    world.write_file(
        origin, "[origin]\ncontainer-image-reference=ostree-unverified-registry:ghcr.io/other/os:1\n"
    )
    check_left_alone(world, checks, "foreign", "bootc switch --enforce-container-sigpolicy")
    # What bootc says of layered packages (`incompatible`) can't be had without rpm-ostree; a root that is
    # made from no image can.
    world.write_file(origin, "[origin]\nrefspec=fedora:fedora/44/x86_64/kinoite\n")
    check_left_alone(world, checks, "layered", "rpm-ostree reset")
    world.write_file(origin, honest)
    machine.run(["mv", "/run/ostree-booted", "/run/veilor-lab/ostree-booted"])
    check_left_alone(world, checks, "package", "back up your files and install veilor-os anew")
    machine.run(["mv", "/run/veilor-lab/ostree-booted", "/run/ostree-booted"])
    commit = origin.rpartition("/")[2].partition(".")[0]
    machine.run(["ostree", "admin", "deploy", "--stage", commit], timeout=300)
    check_left_alone(world, checks, "others-staged", "ostree admin undeploy 0")
    machine.run(["ostree", "admin", "undeploy", "0"], timeout=300)


def reset_first_boot(world: World) -> None:
    """Go back to the state before the first run: nothing staged, counted or recorded.

    What was downloaded stays.
    """
    script = f"""rm -f {DONE} /run/veilor-lab/kill /run/veilor-lab/calls /var/lib/veilor/health.json
    test -e /run/ostree/staged-deployment && ostree admin undeploy 0
    mount -o remount,rw /boot; grub2-editenv /boot/grub2/grubenv unset veilor_counter; systemctl enable {UNIT}; true"""  # noqa: E501
    world.machine.run(["sh", "-c", script], timeout=300)


@phase("disturbed", "Others' changes, and kill -9 at random steps", starts_from="install", independent=True)
def disturbed(world: World, checks: Checks) -> None:
    v1 = world.make_image("44.1")
    machine = world.boot()
    machine.run(["systemctl", "stop", UNIT])
    world.publish(v1)
    check_foreign_changes(world, checks)

    machine.run(["ostree", "admin", "pin", "0"])
    machine.run(["sh", "-c", TAP, "tap.sh", *TAPPED])
    reset_first_boot(world)
    done = world.run_program(PROGRAM, "--now")
    checks.equal(
        "undisturbed it stages the announced image",
        (done.code, image_digest(world.bootc_status()["staged"])),
        (0, v1.digest),
    )
    checks.true(
        "somebody's own pin stays theirs",
        "bootstrap" not in world.read_file("/var/lib/veilor/health.json"),
        go_on=True,
    )
    calls = world.read_file("/run/veilor-lab/calls").splitlines()
    kill_points = [f"{number} before" for number in range(1, len(calls) + 1)]
    kill_points += [f"{number} after" for number, call in enumerate(calls, 1) if call.startswith(CHANGING)]
    seed = secrets.randbelow(10**6)
    for kill_point in random.Random(seed).sample(kill_points, KILLS):
        reset_first_boot(world)
        world.write_file("/run/veilor-lab/kill", kill_point)
        number, when = kill_point.split()
        what = f"kill -9 {when} call {number} of {len(calls)} (`{calls[int(number) - 1][:60]}`; seed {seed})"
        killed = world.run_program(PROGRAM, "--now")
        checks.true(f"{what}: it was killed", killed.code in (-9, 137), killed.text[-200:])
        staged = world.bootc_status()["staged"]
        checks.true(
            f"{what}: nothing but the announced image can boot",
            image_digest(staged) in (None, v1.digest),
            staged,
        )
        machine.run(["rm", "-f", "/run/veilor-lab/kill", "/run/veilor-lab/calls"])
        again = world.run_program(PROGRAM, "--now")
        checks.equal(
            f"{what}: the next run ends well",
            (again.code, image_digest(world.bootc_status()["staged"])),
            (0, v1.digest),
        )
        record = json.loads(world.read_file("/var/lib/veilor/health.json"))
        checks.equal(f"{what}: with its first boots counted", record["armed"]["target"]["digest"], v1.digest)

    reset_first_boot(world)
    # Behind the stamp the unit has nothing to do any more.
    early = [
        kill_point
        for kill_point in kill_points[1:]
        if not calls[int(kill_point.split()[0]) - 1].startswith("systemctl disable")
    ]
    kill_point = random.Random(seed + 1).choice(early)
    world.write_file("/run/veilor-lab/kill", kill_point)
    world.run_program(PROGRAM, "--now")
    world.cut_power()
    machine = world.boot()
    wait_signed_image_staged(world, v1.digest)
    checks.true(
        f"killed {kill_point} and the power cut: the unit goes on by itself",
        world.bootc_status()["staged"],
        world.login_notice(),
    )
    world.cut_power()

    world.boot()
    checks.equal(
        "the power is cut before the restart: what was staged is lost", world.bootc_status()["staged"], None
    )
    done = world.run_program("veilor-update")
    checks.equal(
        "the updates move it all the same",
        (done.code, image_digest(world.bootc_status()["staged"])),
        (0, v1.digest),
    )
    world.cut_power()
