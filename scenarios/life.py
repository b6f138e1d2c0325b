"""A machine's whole life: installed, unlocked, moved to the signed image, updated, rolled back, attacked."""

from __future__ import annotations

import json
import secrets

from veilor.lab import disk
from veilor.lab.evidence import COUNTED, PROMPT, image_digest, signature_policy
from veilor.lab.machine import DiskFile
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks
from veilor.lab.world import PASSPHRASE, UNLOCK_TIMEOUT, World

STORY = (
    "A machine was installed on an encrypted disk, moved itself onto the signed image, was updated, rolled "
    "back, given an update that breaks, and attacked through its update channel"
)
HOME_FILE = "/var/home/letter.txt"
ETC_FILE = "/etc/veilor-lab-marker"
CANARY_FILE = "/var/lib/veilor-lab-canary"


@phase("install", "Install v0 from the ISO, with no network")
def install(world: World, checks: Checks) -> None:
    world.make_keys()
    v0 = world.make_image("44.0")
    iso = world.make_iso(v0)
    other = disk.make_second_disk(world.dir / "other.raw")
    before = disk.fingerprint(other)
    share = world.dir / "install-logs"
    share.mkdir(exist_ok=True)

    machine = world.power_on(world.hardware(network=False, medium=iso, extra=[DiskFile(other)], share=share))
    at = machine.wait_console(rb"Install to which disk\? ", 240, "the installer's question for a disk")
    offered = world.offered_disks()
    world.take_screenshot("installer", "The installer asks which disk to take")
    checks.true(
        "the installation medium is not offered", "disk0" not in offered and len(offered) == 2, offered
    )
    machine.console.send(offered["disk1"].encode() + b"\n")
    # Anaconda 44.35 asks “Passphrase: ” and “Passphrase (confirm): ”, and so does its stand-in.
    at = machine.wait_console(
        rb"[Pp]assphrase[^\r\n:]*: ", 600, "the installer's question for a passphrase", at
    )
    machine.console.send(PASSPHRASE + b"\n")
    at = machine.wait_console(rb"(?:Again|[Cc]onfirm[^\r\n:]*): ", 60, "the passphrase asked for again", at)
    machine.console.send(PASSPHRASE + b"\n")
    if world.settings.stand_in_medium:
        machine.wait_console(
            rb"VEILOR-INSTALL: (?:DONE|FAILED[^\r\n]*)", 900, "the end of the installation", at
        )
        said = machine.console.text()
        checks.true("the installation ends well", "VEILOR-INSTALL: DONE" in said, said[-300:])
    machine.wait_end(150 if world.settings.stand_in_medium else 3600, "the installer to power off")
    world.check_console()
    said = machine.console.text()
    world.stop()

    logs = {path.name: path.read_bytes() for path in share.iterdir()}
    checks.true(
        "the logs are on the host",
        {"program.log", "veilor-choose-disk.log", "veilor-require-luks.log", "veilor-complete.log"}
        <= set(logs),
        sorted(logs),
    )
    completed = logs["veilor-complete.log"].decode(errors="replace")
    put_back = "/etc/chrony.conf (changed): put back" in completed
    checks.true(
        "the clock's servers, which the installer replaced, were put back",
        put_back or not world.settings.stand_in_medium,
        completed,
    )
    checks.equal(
        "the passphrase is in none of them", [name for name, text in logs.items() if PASSPHRASE in text], []
    )
    checks.equal("a second disk stays byte for byte as it was", disk.fingerprint(other), before)
    raw = world.export_raw_disk()
    layout = disk.read_gpt(raw)
    checks.equal("the disk has an EFI partition, /boot and one more", len(layout), 3)
    root = max(layout, key=lambda part: part.size)
    header = disk.read_luks_header(raw, root)
    checks.equal("the root partition is LUKS2", header.version, 2)
    checks.equal("its passphrase is stretched by argon2id", header.kdf, "argon2id")
    checks.true("/boot has 2 GiB", any(part.size >= 2 << 30 for part in layout if part is not root))
    outside, whole = [(0, layout[0].start), (root.start, raw.stat().st_size)], [(0, raw.stat().st_size)]
    ours = [b"veilor-firstboot-rebase", b"/usr/lib/veilor", b"org.containers.bootc"]
    checks.equal(
        "laptop.encrypted: no readable file of ours outside /boot and the EFI partition",
        disk.find_bytes(raw, ours, outside),
        [],
    )
    checks.equal(
        "laptop.no-second-copy: the passphrase is nowhere on the disk",
        disk.find_bytes(raw, [PASSPHRASE], whole),
        [],
    )
    disk.write_in_clear(raw, root, ours[0] + PASSPHRASE)
    found = disk.find_bytes(raw, [ours[0], PASSPHRASE], outside)
    checks.equal("laptop.encrypted negative control: what lies there in the clear is found", len(found), 2)
    checks.equal(
        "laptop.no-second-copy negative control: the passphrase is found where it lies", len(found), 2
    )
    checks.true("the passphrase is not on the console", PASSPHRASE.decode() not in said)
    raw.unlink()
    other.unlink()


@phase("first-boot", "First boot: unverified, then moved onto the signed image")
def first_boot(world: World, checks: Checks) -> None:
    v1 = world.make_image("44.1")
    world.publish(v1)
    mark = world.registry.log_position()

    machine = world.power_on()
    machine.set_link(False)
    world.type_passphrase()
    machine.wait_agent(UNLOCK_TIMEOUT)
    world.take_screenshot("first-boot", "First boot of the installed disk")
    status = world.bootc_status()
    checks.equal("what runs came from the installer", status["booted"]["image"]["image"]["transport"], "oci")
    as_shipped = ["python3", "-I", "-S", "/usr/lib/veilor/app", "as-shipped"]
    seen = machine.run(as_shipped, check=False)
    checks.true("what claims rest on in /etc is the image's", seen.code == 0, seen.out + seen.err)
    remotes = machine.run(["grep", "-c", "remote", "/sysroot/ostree/repo/config"], check=False).out.strip()
    checks.equal("the installation source is no remote of ostree's", remotes, "0")
    machine.run(["mkdir", "-p", "/etc/firewalld/zones"])
    world.write_file("/etc/firewalld/zones/veilor.xml", "<zone/>")
    seen = machine.run(as_shipped, check=False)
    checks.true(
        "negative control: a zone that hides the image's is named",
        seen.code == 1 and "/etc/firewalld/zones/veilor.xml (not the image's)" in seen.err,
        seen.err,
    )
    machine.run(["rm", "/etc/firewalld/zones/veilor.xml"])
    shown = world.run_program("veilor-status")
    checks.true(
        "status says plainly that what runs is unverified", "unverified" in shown.text.lower(), shown.text
    )
    checks.equal("nothing was asked of the registry without a network", len(world.registry.requests(mark)), 0)
    canary = f"canary {secrets.token_hex(12)}"
    world.write_file(CANARY_FILE, canary)
    searched = PASSPHRASE + b"\n" + canary.encode() + b"\n"
    found = machine.run(
        ["grep", "-rlaF", "-f", "-", "/var/log", "/var/lib", "/etc"], check=False, stdin=searched, timeout=120
    ).out
    checks.equal(
        "the passphrase is in no log and no setting, where a planted word is found",
        found.split(),
        [CANARY_FILE],
    )
    world.write_file(HOME_FILE, "dear diary\n")
    world.write_file(ETC_FILE, "changed before the move\n")

    machine.wait_until(
        ["systemctl", "is-active", "veilor-firstboot-rebase.service"],
        lambda r: r.out.strip() in ("active", "activating"),
        60,
        "the first-boot unit to wait for a network",
    )
    machine.set_link(True)
    machine.wait_until(
        ["bootc", "status", "--format=json", "--format-version=1"],
        lambda r: r.code == 0 and image_digest(json.loads(r.out)["status"]["staged"]) == v1.digest,
        300,
        "the first boot to stage the signed image",
    )
    machine.wait_unit("veilor-firstboot-rebase.service", "inactive", 120)
    checks.equal("exactly one passphrase prompt", world.count_prompts(), 1)
    status = world.bootc_status()
    checks.equal("the staged image is the announced one", image_digest(status["staged"]), v1.digest)
    checks.equal("it was fetched under the policy", signature_policy(status["staged"]), "containerPolicy")
    checks.true("the bootstrap is pinned", status["booted"]["pinned"], status["booted"])
    checks.equal(
        "the first-boot unit has disabled itself",
        machine.run(["systemctl", "is-enabled", "veilor-firstboot-rebase.service"], check=False).out.strip(),
        "disabled",
    )
    notice = world.login_notice()
    checks.true("the person is told to restart", "restart" in notice.lower(), notice)
    asked = world.registry.requests(mark)
    checks.true(
        "the signature was read before any layer",
        world.signature_before_layers(asked),
        [r.path for r in asked][:20],
    )
    policy = json.loads(world.read_file("/etc/containers/policy.json"))
    checks.equal("what no policy names is rejected", policy["default"], [{"type": "reject"}])
    world.check_console()
    world.apply_sabotage("first-boot-end")
    world.shut_down()


@phase("second-boot", "Second boot: the signed image runs, nothing was lost")
def second_boot(world: World, checks: Checks) -> None:
    world.apply_sabotage("second-boot-off")
    machine = world.boot()
    world.apply_sabotage("second-boot")
    status = world.bootc_status()
    checks.equal(
        "the booted image is the announced one",
        image_digest(status["booted"]),
        world.notes.releases["44.1"],
    )
    checks.equal(
        "its signature was verified by policy", signature_policy(status["booted"]), "containerPolicy"
    )
    product = world.settings.product
    checks.equal(
        "it follows the product's image",
        status["booted"]["image"]["image"]["image"],
        f"{product.registry}/{product.image_repository}:{product.tag}",
    )
    checks.true(
        "the machine calls itself veilor-os",
        'NAME="veilor-os"' in world.read_file("/etc/os-release"),
        world.read_file("/etc/os-release"),
    )
    checks.equal("the file in /home is still there", world.read_file(HOME_FILE), "dear diary\n")
    checks.equal("the change in /etc is still there", world.read_file(ETC_FILE), "changed before the move\n")
    checks.true(
        "status says it is verified",
        "verified by" in world.run_program("veilor-status").text,
        world.run_program("veilor-status").text,
    )
    checks.equal(
        "the first-boot unit does not run again",
        machine.run(["systemctl", "is-active", "veilor-firstboot-rebase.service"], check=False).out.strip(),
        "inactive",
    )
    checks.true(
        "the health check passed and the boot counter is off", world.wait_healthy(), world.grub_environment()
    )
    world.take_screenshot("second-boot", "The signed image, booted")
    world.shut_down()


@phase("update", "Update to v2; a power cut in between boots v1")
def update(world: World, checks: Checks) -> None:
    v2 = world.make_image("44.2")
    world.boot()
    world.apply_sabotage("update")
    world.publish(v2)
    mark = world.registry.log_position()
    done = world.run_program("veilor-update", "--download-only")
    checks.equal("the update is downloaded", done.code, 0)
    staged = world.bootc_status()["staged"]
    checks.equal("what is downloaded is v2", image_digest(staged), v2.digest)
    checks.true("it is locked until it was compared", staged["downloadOnly"], staged)
    world.cut_power()

    world.boot()
    checks.equal(
        "after the power cut v1 boots",
        image_digest(world.bootc_status()["booted"]),
        world.notes.releases["44.1"],
    )
    done = world.run_program("veilor-update")
    checks.equal("the update is staged", done.code, 0)
    checks.true("the person is told to restart when they like", "restart" in done.text.lower(), done.text)
    status = world.bootc_status()
    checks.equal("v2 is staged", image_digest(status["staged"]), v2.digest)
    checks.true("v2 is unlocked", not status["staged"]["downloadOnly"], status["staged"])
    pulled = world.layer_bytes(world.registry.requests(mark))
    checks.true(
        "bytes pulled are at most 1.05 × the changed layer",
        v2.layer_bytes <= pulled <= 1.05 * v2.layer_bytes,
        f"{pulled} bytes of layers for a layer of {v2.layer_bytes}",
    )
    world.notes.measured["pulled"] = [pulled, v2.layer_bytes]
    world.shut_down()

    world.boot()
    checks.equal("v2 runs", image_digest(world.bootc_status()["booted"]), v2.digest)
    checks.true("v2 is healthy", world.wait_healthy(), world.grub_environment())
    again = world.run_program("veilor-update")
    checks.equal("nothing newer: nothing to do", again.code, 0)
    checks.equal("and nothing is staged", world.bootc_status()["staged"], None)
    world.shut_down()


@phase("rollback", "Roll back to v1 and forward again")
def rollback(world: World, checks: Checks) -> None:
    releases = world.notes.releases
    world.boot()
    world.apply_sabotage("rollback")
    world.write_file("/etc/veilor-lab-v2", "made on v2\n")
    world.write_file("/var/home/v2.txt", "made on v2\n")
    done = world.run_program("veilor-rollback", "--yes")
    checks.equal("veilor-rollback ends well", done.code, 0)
    checks.true("it says what happens to /etc", "/etc" in done.text, done.text)
    world.shut_down()

    machine = world.boot()
    checks.equal("v1 runs again", image_digest(world.bootc_status()["booted"]), releases["44.1"])
    checks.equal("the file in /home stays", world.read_file("/var/home/v2.txt"), "made on v2\n")
    checks.true(
        "/etc is v1's own again", machine.run(["test", "-e", "/etc/veilor-lab-v2"], check=False).code == 1
    )
    refused = world.run_program("veilor-update")
    checks.equal(
        "what was rolled back from is not staged again by itself", world.bootc_status()["staged"], None
    )
    checks.true("and the person is told why", "rolled back" in refused.text.lower(), refused.text)
    done = world.run_program("veilor-rollback", "--yes")
    checks.equal("veilor-rollback leads forward again", done.code, 0)
    world.shut_down()

    world.boot()
    checks.equal("v2 runs again", image_digest(world.bootc_status()["booted"]), releases["44.2"])
    checks.equal("with the /etc that was made on it", world.read_file("/etc/veilor-lab-v2"), "made on v2\n")
    world.shut_down()


@phase("bad-update", "v3 fails its health check and is left by itself")
def bad_update(world: World, checks: Checks) -> None:
    v3 = world.make_image("44.3", mutate=world.break_policy)
    machine = world.boot()
    world.publish(v3)
    checks.equal("v3 is staged", world.run_program("veilor-update").code, 0)
    world.shut_down()

    machine = world.power_on()
    at = 0
    for number in range(1, 5):
        at = world.type_passphrase(start=at)
        machine.wait_agent(UNLOCK_TIMEOUT)
        world.boots += number > 1  # the machine restarts by itself
        if number == 3:
            world.take_screenshot("third-boot", "The third boot of an image whose health check fails")
    checks.equal("three boots of v3, then one more", machine.console.count(COUNTED), 4)
    world.wait_startup_end()
    status = world.bootc_status()
    checks.equal("the fourth is v2", image_digest(status["booted"]), world.notes.releases["44.2"])
    machine.wait_unit("veilor-health-return.service", "inactive", 120)
    shown = world.run_program("veilor-status")
    checks.true("status says why", "health" in shown.text.lower() and "44.3" in shown.text, shown.text)
    notice = world.login_notice()
    checks.true("the person is told", "health" in notice.lower(), notice)
    world.take_screenshot("returned", "Back on v2, and why")
    mark = world.registry.log_position()
    world.run_program("veilor-update")
    checks.equal("v3 is not staged again by itself", world.bootc_status()["staged"], None)
    checks.equal("nothing of it is fetched", world.layer_bytes(world.registry.requests(mark)), 0)
    world.shut_down()


@phase("not-unlocked", "Three power-ons that nobody unlocks don't turn a good update away")
def not_unlocked(world: World, checks: Checks) -> None:
    v4 = world.make_image("44.4")
    world.boot()
    checks.equal(
        "after the return v2 is the default",
        image_digest(world.bootc_status()["booted"]),
        world.notes.releases["44.2"],
    )
    world.publish(v4)
    checks.equal("a newer good release is staged", world.run_program("veilor-update").code, 0)
    checks.equal("it is v4", image_digest(world.bootc_status()["staged"]), v4.digest)
    world.apply_sabotage("not-unlocked")
    world.shut_down()
    for _ in range(3):
        machine = world.power_on()
        machine.wait_console(PROMPT, UNLOCK_TIMEOUT, "the passphrase prompt")
        world.cut_power()

    machine = world.boot()
    checks.equal("then v2 boots", image_digest(world.bootc_status()["booted"]), world.notes.releases["44.2"])
    machine.wait_unit("veilor-health-return.service", "inactive", 120)
    shown = world.run_program("veilor-status").text
    checks.true("status says that nobody unlocked it", "unlock" in shown.lower(), shown)
    done = world.run_program("veilor-update")
    checks.equal("v4 is offered again", image_digest(world.bootc_status()["staged"]), v4.digest)
    checks.equal("and staged without an error message", done.code, 0)
    world.shut_down()

    world.boot()
    checks.equal("v4 runs", image_digest(world.bootc_status()["booted"]), v4.digest)
    checks.true("v4 is healthy", world.wait_healthy(), world.grub_environment())
    world.shut_down()


@phase("update-attacks", "A stranger's signature, a changed digest, an older statement: refused")
def update_attacks(world: World, checks: Checks) -> None:
    world.boot()
    before = world.bootc_status()

    def check_refused(what: str) -> None:
        mark = world.registry.log_position()
        done = world.run_program("veilor-update", timeout=300)
        checks.true(f"{what}: refused", done.code != 0, done.text)
        checks.true(
            f"{what}: said in a sentence",
            len(done.text.strip()) > 20 and "Traceback" not in done.text,
            done.text,
        )
        after = world.bootc_status()
        checks.equal(f"{what}: nothing is staged", after["staged"], None)
        checks.equal(
            f"{what}: what boots next is unchanged",
            (image_digest(after["booted"]), image_digest(after["rollback"]), after["rollbackQueued"]),
            (image_digest(before["booted"]), image_digest(before["rollback"]), before["rollbackQueued"]),
        )
        checks.equal(f"{what}: no layer was fetched", world.layer_bytes(world.registry.requests(mark)), 0)

    stranger = world.make_image("44.5")
    world.publish(stranger, key="stranger.pub")
    check_refused("v5 signed by a stranger")
    announced, swapped = world.make_image("44.6"), world.make_image("44.7")
    world.publish(announced)
    world.publish(swapped, announce=False)
    check_refused("v6 with the digest changed under its statement")
    product = world.settings.product
    world.publish(world.make_image("44.8"), announce=False)
    world.announce("44.8", world.digest_of_tag(), sequence=1)
    check_refused("an older statement")
    world.announce("44.8", world.digest_of_tag(), key="stranger.pub")
    check_refused("a statement signed by a stranger")
    world.announce("44.8", world.digest_of_tag(), key=product.image_keys[0])
    check_refused("a statement signed by the image's key")

    world.announce("44.8", world.digest_of_tag())
    checks.equal("the honest release after all of them is taken", world.run_program("veilor-update").code, 0)
    checks.equal("it is staged", image_digest(world.bootc_status()["staged"]), world.digest_of_tag())
    world.shut_down()
