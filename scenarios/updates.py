"""Each outcome of an update on one machine.

What holds it up, what withdraws it, and who tries to lead the machine astray with and without its checks.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from veilor.lab.evidence import image_digest
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks
from veilor.lab.world import UNLOCK_TIMEOUT, World

AFTER = "life:second-boot"
STORY = (
    "A machine that follows the signed image was held up, given and denied updates, and led astray "
    "with and without its checks"
)
TAP = (Path(__file__).parent / "guest/tap.sh").read_text()
APP = "/usr/lib/veilor/app/veilor"
DAY = 86400
METERED = [
    "busctl",
    "get-property",
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
    "Metered",
]
HOLD_LOCK = """
import fcntl, struct, sys, time
file = open(sys.argv[1], "a")
fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
time.sleep(900)
"""


def staged_digest(world: World) -> str | None:
    """The digest of what is staged; None when nothing is."""
    return image_digest(world.bootc_status()["staged"])


def expect_outcome(
    world: World, checks: Checks, what: str, code: int, *argv: str, says: str = "", **facts: object
) -> dict[str, Any]:
    """Run veilor-update --json with ARGV and check how it ends; its answer.

    Expected are the exit code CODE, the FACTS among the answer's, and SAYS as a part of its sentences.
    """
    done = world.run_program("veilor-update", "--json", *argv, timeout=900)
    line = " ".join([*(done.data[part] for part in ("what", "means", "next")), *done.data["warnings"]])
    checks.equal(
        f"{what}: exit code and facts",
        (done.code, {name: done.data.get(name) for name in facts}),
        (code, facts),
        go_on=True,
    )
    checks.true(f"{what}: it is said", says.lower() in line.lower(), line, go_on=True)
    answer: dict[str, Any] = done.data
    return answer


@phase(
    "nothing-new",
    "Nothing new: bootc is asked for its status alone",
    starts_from="second-boot",
    independent=True,
)
def nothing_new(world: World, checks: Checks) -> None:
    machine = world.boot()
    machine.run(["sh", "-c", TAP, "tap.sh", "bootc", "skopeo", "ostree", "grub2-editenv"])
    expect_outcome(world, checks, "nothing new", 0, state="current", says="nothing newer is announced")
    calls = world.read_file("/run/veilor-lab/calls").splitlines()
    bootc = [call for call in calls if call.startswith("bootc ")]
    checks.equal(
        "bootc is asked for its status alone",
        bootc,
        ["bootc status --format=json --format-version=1"],
        go_on=True,
    )
    checks.equal(
        "beside it one program is started",
        [call.split()[0] for call in calls if call not in bootc],
        ["skopeo"],
        go_on=True,
    )
    world.cut_power()


def check_reasons_to_wait(world: World, checks: Checks) -> None:
    """Check what puts an update off before anything is fetched, while 44.2 is announced."""
    machine = world.machine
    if machine.run(["systemctl", "is-active", "NetworkManager.service"], check=False).out.strip() != "active":
        checks.not_run("a metered connection", "this base has no NetworkManager")
    else:
        name = machine.run(["nmcli", "-t", "-f", "NAME,TYPE", "connection", "show", "--active"]).out.split(
            ":"
        )[0]
        # Only what leads to a default route counts for NetworkManager, and the lab's network hands out none.
        modify = ["nmcli", "device", "modify", _network_card(world), "connection.metered"]
        machine.run([*modify, "yes", "+ipv4.routes", "0.0.0.0/0 10.0.2.2"], check=False)
        machine.wait_until(
            METERED,
            lambda r: r.out.split()[-1:] in (["1"], ["3"]),
            60,
            "NetworkManager to call the connection metered",
        )
        expect_outcome(world, checks, f"metered ({name})", 3, finding="metered", says="--now")
        machine.run([*modify, "no", "-ipv4.routes", "0.0.0.0/0 10.0.2.2"], check=False)

    free = int(
        machine.run(
            ["python3", "-c", "import os; s = os.statvfs('/sysroot'); print(s.f_bfree * s.f_frsize)"]
        ).out
    )
    for left, code, finding in ((2 << 30, 3, "space"), (300 << 20, 1, "full")):
        machine.run(["fallocate", "-l", str(free - left), "/var/lib/veilor-lab-filler"])
        expect_outcome(
            world, checks, f"{left >> 20} MiB free", code, finding=finding, says="are free for the system"
        )
        machine.run(["rm", "/var/lib/veilor-lab-filler"])
        machine.run(["sync"])

    world.write_file("/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
    mark = world.registry.log_position()
    expect_outcome(
        world,
        checks,
        "the policy is not intact",
        4,
        says="cp -a /usr/etc/containers/policy.json /etc/containers/policy.json",
    )
    checks.equal(
        "the policy is not intact: nothing is fetched", world.registry.requests(mark), [], go_on=True
    )
    machine.run(["cp", "-a", "/usr/etc/containers/policy.json", "/etc/containers/policy.json"])

    holder = ["systemd-run", "--quiet", "--unit=veilor-lab-lock", "flock", "/run/veilor/lock", "sleep", "900"]
    machine.run(holder)
    expect_outcome(world, checks, "another veilor program is running", 3, says="another veilor program")
    machine.run(["systemctl", "stop", "veilor-lab-lock.service"])
    inside = 'mount -o remount,rw /sysroot && exec python3 -c "$1" /sysroot/ostree/lock'
    machine.run(
        [
            "systemd-run",
            "--quiet",
            "--unit=veilor-lab-lock",
            "unshare",
            "-m",
            "sh",
            "-c",
            inside,
            "sh",
            HOLD_LOCK,
        ]
    )
    time.sleep(3)
    expect_outcome(world, checks, "bootc waits for somebody else's lock", 3, says="wait until it has ended")
    machine.run(["systemctl", "stop", "veilor-lab-lock.service"])
    checks.equal("after all of that nothing is staged", staged_digest(world), None)


def _network_card(world: World) -> str:
    """The name of the machine's only network interface besides the loopback."""
    links = json.loads(world.machine.run(["ip", "-j", "link"]).out)
    names: list[str] = [link["ifname"] for link in links]
    return next(name for name in names if name != "lo")


def release_lifecycle(world: World, checks: Checks, good: str, old: str) -> None:
    """Take the release GOOD through a rollout, two-step staging, withdrawal and rollback.

    GOOD and OLD, which is what runs, are digests.
    """
    now = int(time.time())
    world.announce("44.2", good, rollout_start=now + 2 * DAY, rollout_hours=24)
    checks.true(
        "a turn: the answer says when it is",
        expect_outcome(world, checks, "a turn that is later", 3, finding="turn").get("turn"),
        go_on=True,
    )
    expect_outcome(
        world,
        checks,
        "--check says what is announced",
        0,
        "--check",
        state="stage",
        says="this machine's turn",
    )
    checks.equal("and stages nothing", staged_digest(world), None)
    expect_outcome(
        world,
        checks,
        "--now --download-only",
        0,
        "--now",
        "--download-only",
        state="downloaded",
        says="locked",
    )
    checks.true("downloaded, it is kept from booting", world.bootc_status()["staged"]["downloadOnly"])
    expect_outcome(
        world, checks, "once more, and it is ready", 0, "--now", state="ready", says="restart when you like"
    )
    world.announce("44.1", old, withdrawn=[good])
    expect_outcome(world, checks, "a withdrawn release", 0, state="current", says="was removed")
    armed = json.loads(world.read_file("/var/lib/veilor/health.json"))["armed"]
    checks.equal("is gone", (staged_digest(world), armed), (None, None))
    world.announce("44.2", good)
    expect_outcome(world, checks, "announced again", 0, state="ready")
    back = world.run_program("veilor-rollback", "--yes")
    checks.true(
        "a rollback to what was never verified says so",
        back.code == 0 and "never verified" in back.text,
        back.text,
        go_on=True,
    )
    checks.equal("and comes back", world.run_program("veilor-rollback", "--yes").code, 0)
    expect_outcome(world, checks, "what was rolled back from", 0, state="held", says="rolled back by hand")
    checks.equal("is not staged", staged_digest(world), None)


@phase(
    "outcomes",
    "Each outcome of an update, and --apply into the new system",
    starts_from="second-boot",
    independent=True,
)
def outcomes(world: World, checks: Checks) -> None:
    v2, v3 = world.make_image("44.2"), world.make_image("44.3")
    machine = world.boot()
    old = world.notes.releases["44.1"]
    world.publish(v2)
    check_reasons_to_wait(world, checks)
    release_lifecycle(world, checks, v2.digest, old)

    product = world.settings.product
    world.publish(v3, announce=False, key=product.image_keys[1])  # key A is lost: B signs both
    world.announce("44.3", v3.digest, key=product.channel_keys[1], age=400)
    expect_outcome(
        world,
        checks,
        "a year off and key A lost: a newer release by key B",
        0,
        state="ready",
        says="ran out 386 days ago",
    )
    shown = world.run_program("veilor-status").text
    checks.true(
        "status says how old the news is", "beware" in shown and "386 days" in shown, shown, go_on=True
    )
    world.announce("44.3", v3.digest, key="stranger.pub")
    expect_outcome(
        world,
        checks,
        "after a long absence a key that nobody knows",
        4,
        says="both keys it knows may have been replaced",
    )

    world.announce("44.3", v3.digest)
    at = len(machine.console.buffer)
    expect_outcome(world, checks, "--apply", 0, "--apply", state="ready", restarting=True)
    world.type_passphrase(start=at)
    machine.wait_agent(UNLOCK_TIMEOUT)
    world.boots += 1
    world.wait_startup_end()
    checks.equal("--apply boots the new system", image_digest(world.bootc_status()["booted"]), v3.digest)
    checks.true("healthy", world.wait_healthy(), world.grub_environment())
    world.check_console()
    world.cut_power()


@phase(
    "busy-registry",
    "The registry answers 503: the update is put off, and nobody is sent to a login page",
    starts_from="second-boot",
    independent=True,
)
def busy_registry(world: World, checks: Checks) -> None:
    release = world.make_image("44.2")
    world.boot()
    world.publish(release)
    with world.registry.replaced_by_error(503) as asked:
        said = expect_outcome(
            world,
            checks,
            "503 over the registry's certificate",
            3,
            network="answers",
            says="the registry is there but did not give what was asked for",
        )
    checks.true("503: the registry was asked", asked, asked[:9])
    checks.true("503: nobody is sent to a login page", "login page" not in str(said), said, go_on=True)
    checks.equal("503: nothing is staged", staged_digest(world), None)

    with world.registry.replaced_by_error(503, genuine=False):
        expect_outcome(
            world,
            checks,
            "negative control: 503 over a stranger's certificate is not taken for the registry's",
            3,
            network="intercepted",
            says="something else answers in the registry's place",
        )
    expect_outcome(world, checks, "once the registry is back", 0, state="ready")
    checks.equal("the release is staged", staged_digest(world), release.digest)
    world.cut_power()


def disable_check(world: World, file: str, code: str) -> None:
    """Append CODE to the program FILE on the running machine, which replaces one of its checks."""
    changed = f"/run/veilor-lab/{Path(file).name}"
    world.write_file(changed, world.read_file(f"{APP}/{file}") + f"\n\n{code}\n")
    world.machine.run(["mount", "--bind", changed, f"{APP}/{file}"])


@phase(
    "trust",
    "A downgrade, a moved tag, a replay, a freeze; then without the check",
    starts_from="second-boot",
    independent=True,
)
def trust(world: World, checks: Checks) -> None:
    v0, v2 = world.make_image("44.0"), world.make_image("44.2")
    machine = world.boot()
    old = world.notes.releases["44.1"]
    world.publish(v0, announce=False)  # signed by our key, and older than what runs
    expect_outcome(world, checks, "the tag moved to an older image", 0, state="current")
    world.announce("44.2", v2.digest)
    mark = world.registry.log_position()
    expect_outcome(
        world,
        checks,
        "the tag moved while another is announced",
        3,
        finding="ahead",
        says="44.2 is announced",
    )
    checks.equal("that costs no layer", world.layer_bytes(world.registry.requests(mark)), 0, go_on=True)
    checks.true("and no alarm", "44.2" not in world.login_notice(), world.login_notice(), go_on=True)
    disable_check(world, "device/channel.py", "def digest_of_tag(*_):\n    return None")
    expect_outcome(world, checks, "the tag moved after it was asked for", 4, says="44.2 (")
    checks.equal("the older image is gone", staged_digest(world), None)
    machine.run(["umount", f"{APP}/device/channel.py"])
    world.announce("44.1", old, sequence=1)
    expect_outcome(world, checks, "a statement replayed", 4, says="which this machine has seen before")
    world.announce("44.0", v0.digest, sequence=1)
    expect_outcome(world, checks, "a downgrade", 4, says="older than 2")
    world.announce("44.0", v0.digest, sequence=2)
    expect_outcome(
        world, checks, "another image under a number seen before", 4, says="announces another image"
    )
    for number, age, says in ((3, 24, "whether its network blocks"), (4, 54, "look from another device")):
        world.announce("44.1", old, sequence=number, age=age)
        expect_outcome(world, checks, f"a freeze, {age - 14} days", 0, state="current", says=says)
        shown = world.run_program("veilor-status").text
        checks.true(
            f"a freeze, {age - 14} days: status and notice say it",
            "beware" in shown and says in world.login_notice(),
            shown,
            go_on=True,
        )
    checks.equal("nothing is staged after all of it", staged_digest(world), None)

    world.announce("44.0", v0.digest, sequence=1)
    disable_check(world, "core/statement.py", "def check_sequence(*_):\n    return None")
    done = world.run_program("veilor-update", timeout=900)
    checks.equal(
        "with the sequence unchecked the downgrade succeeds", staged_digest(world), v0.digest, go_on=True
    )
    checks.true("and is called ready", "is ready" in done.text, done.text, go_on=True)
    machine.run(["umount", f"{APP}/core/statement.py"])
    machine.run(["ostree", "admin", "undeploy", "0"], timeout=300)
    world.announce("44.2", v2.digest, sequence=5)
    disable_check(world, "device/channel.py", "def digest_of_tag(*_):\n    return None")
    disable_check(world, "device/update.py", "def compare(host, *_):\n    return host")
    world.run_program("veilor-update", timeout=900)
    checks.equal(
        "with the digest uncompared the moved tag succeeds", staged_digest(world), v0.digest, go_on=True
    )
    world.cut_power()


LARGEST = 2**53  # no statement has a higher sequence


@phase(
    "fast-forward",
    "A stolen channel key uses up all numbers: one statement by the second key leads the machine on",
    starts_from="second-boot",
    independent=True,
)
def fast_forward(world: World, checks: Checks) -> None:
    v2 = world.make_image("44.2")
    world.boot()
    old, second_key = world.notes.releases["44.1"], world.settings.product.channel_keys[1]
    world.announce("44.1", old, sequence=LARGEST)
    expect_outcome(
        world, checks, "the thief announces what runs under the largest number", 0, state="current"
    )
    world.publish(v2, announce=False)
    world.announce("44.2", v2.digest, sequence=3, key=second_key)
    expect_outcome(
        world, checks, "the second key in the same epoch", 4, says="which this machine has seen before"
    )
    world.announce("44.2", v2.digest, sequence=1, epoch=1)
    expect_outcome(world, checks, "a new epoch by the stolen key", 4, says="could not be verified")
    checks.equal("nothing is staged after all of it", staged_digest(world), None)

    world.announce("44.2", v2.digest, sequence=1, epoch=1, key=second_key)
    expect_outcome(world, checks, "a new epoch by the second key", 0, state="ready")
    checks.equal("the release is staged", staged_digest(world), v2.digest)
    world.announce("44.1", old, sequence=LARGEST)
    expect_outcome(world, checks, "the thief's statement, played again", 4, says="older than 1/1")
    world.announce("44.1", old, sequence=2, epoch=1)
    expect_outcome(world, checks, "the stolen key in the new epoch", 4, says="could not be verified")
    checks.equal("the release is still staged", staged_digest(world), v2.digest)

    disable_check(
        world,
        "device/channel.py",
        "def fetch_statement(facts, rules=None):\n"
        "    return fetch(facts.channel_ref, lambda folder: statement.parse(read_layer(folder)), 'it')",
    )
    expect_outcome(
        world,
        checks,
        "negative control: where any key begins an epoch, the thief takes the release away again",
        0,
        state="current",
        says="was removed",
    )
    world.cut_power()
