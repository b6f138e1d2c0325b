"""A stand-in for every program that the device's code starts: bootc, ostree, skopeo, grub2-editenv,
systemctl, plymouth, mount, busctl, usbguard, loginctl,
timedatectl.

The tests call these thousands of times, and Python takes longer to start than they to do their work. So one
process (`serve`) plays all of them. What lies on PATH is a shell script (CLIENT in conftest.py) that hands
its call over and waits for the exit code.

Each call belongs to a folder: world.json is the machine as those programs see it, calls.jsonl gets each argv.
bootc's part is a small model, held against recordings of the real one by test_fake.py. With world["kill"] =
[N, "before" | "after"] the N-th call kills the program under test before or after it has had its effect;
[N, "after", "asked"]: by SIGTERM, as systemd does at a shutdown.
"""

import contextlib
import errno
import hashlib
import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path

from loader_entries import write_loader_entries

PATIENCE = 10  # seconds until a caller that does not fetch its answer is given up
FOLDER, CALLER, WORLD, STATUS = Path(), 0, {}, {}  # of the call that is being answered


def fail(text, code=1):
    print(f"error: {text}", file=sys.stderr)
    return code


def entries():
    """All deployments in ostree's order."""
    pair = (
        [STATUS["rollback"], STATUS["booted"]]
        if STATUS["rollbackQueued"]
        else [STATUS["booted"], STATUS["rollback"]]
    )
    return [entry for entry in (STATUS["staged"], *pair, *STATUS.get("otherDeployments", [])) if entry]


def accepted(scope, signed_by, policy=None):
    """Whether one of the keys that the POLICY (default: the machine's) names for SCOPE is SIGNED_BY, the text
    of the signer's key.
    """
    root = FOLDER / "root"
    if signed_by is None:
        return True
    policy = Path(policy or root / "etc/containers/policy.json")
    rule = json.loads(policy.read_text())["transports"]["docker"][scope]
    return any((root / path.lstrip("/")).read_text() == signed_by for path in rule[0]["keyPaths"])


UNSIGNED = (
    "Source image rejected: cryptographic signature verification failed: invalid signature when "
    "validating ASN.1 encoded signature"
)


def stage(reference, locked):
    digest = WORLD["registry"]["digest"]
    checksum = WORLD["registry"].get("checksum") or hashlib.sha256(digest.encode()).hexdigest()
    taken = [
        entry["ostree"]["deploySerial"]
        for entry in entries()[bool(STATUS["staged"]) :]
        if entry["ostree"]["checksum"] == checksum
    ]
    STATUS["staged"] = {
        "image": {
            "image": reference,
            "imageDigest": digest,
            "version": WORLD["registry"]["version"],
            "timestamp": "2026-01-01T00:00:00Z",
            "architecture": "amd64",
        },
        "downloadOnly": locked,
        "pinned": False,
        "incompatible": False,
        "cachedUpdate": None,
        "ostree": {"checksum": checksum, "deploySerial": max(taken, default=-1) + 1, "stateroot": "veilor"},
    }


def drop_staged():
    STATUS["staged"] = None


def bootc(verb, *args):
    args = list(args)
    if "--progress-fd" in args:
        at = args.index("--progress-fd")
        fd = int(args[at + 1])
        del args[at : at + 2]
        event = {"type": "ProgressBytes", "task": "pulling", "bytes": 5, "bytesTotal": 10}
        text = json.dumps(event) + "\nnot json\n" + json.dumps(event | {"bytes": 10}) + "\n"
        with open(f"/proc/{CALLER}/fd/{fd}", "w") as progress:
            progress.write(text)
    spec = (STATUS["staged"] or STATUS["booted"])["image"]["image"] if STATUS["booted"] else None
    trusted = WORLD["registry"].get("error")
    if verb in ("switch", "upgrade") and not accepted(
        "ghcr.io/veilor/veilor-os", WORLD["registry"].get("signed_by")
    ):
        trusted = UNSIGNED
    if verb == "status":
        assert args == ["--format=json", "--format-version=1"], args
        print(json.dumps(WORLD["status"]))
    elif verb == "switch":
        assert args[0] == "--enforce-container-sigpolicy" and len(args) == 2, args
        wanted = {"image": args[1], "transport": "registry", "signature": "containerPolicy"}
        if spec == wanted:
            print("Image specification is unchanged.")
        elif trusted:
            return fail(f"Switching: Switching (ostree): {trusted}")
        else:
            stage(wanted, False)
    elif (verb, args) == ("upgrade", ["--download-only"]):
        if trusted:
            return fail(f"Upgrading: {trusted}")
        if STATUS["staged"] and STATUS["staged"]["image"]["imageDigest"] == WORLD["registry"]["digest"]:
            STATUS["staged"]["downloadOnly"] = True
        elif STATUS["booted"]["image"]["imageDigest"] != WORLD["registry"]["digest"]:
            stage(spec, True)
    elif (verb, args) == ("upgrade", ["--from-downloaded"]):
        if not STATUS["staged"]:
            return fail("Upgrading: No staged deployment found")
        STATUS["staged"]["downloadOnly"] = False
    elif (verb, args) == ("rollback", []):
        if not STATUS["rollback"]:
            return fail("Rollback: No rollback available")
        drop_staged()
        STATUS["rollbackQueued"] = not STATUS["rollbackQueued"]
    else:
        return fail(f"unexpected argument '{args}' found", 2)
    return 0


def ostree(admin, verb, *args):
    if verb == "status":
        for entry in entries():
            mark = "*" if entry is STATUS["booted"] else " "
            print(
                f"{mark} veilor {entry['ostree']['checksum']}.{entry['ostree']['deploySerial']}\n    "
                "origin: <unknown origin type>"
            )
    elif verb == "pin":
        entry = STATUS["booted"] if args == ("booted",) else entries()[int(args[-1])]
        entry["pinned"] = "--unpin" not in args
    elif verb == "undeploy":
        entry = entries()[int(args[0])]
        if entry is STATUS["booted"]:
            return fail("Cannot undeploy currently booted deployment 0")
        if entry is STATUS["staged"]:
            drop_staged()
        elif entry is STATUS["rollback"]:
            STATUS["rollback"] = None
    return 0


def skopeo(*args):
    if args[0] == "inspect":
        assert args[1] == "--raw" and len(args) == 3, args
        registry = WORLD["registry"]  # the hash of a version is its digest: conftest.py
        sys.stdout.write(registry.get("manifest", registry["version"]))
        return 0
    assert (
        args[0].startswith("--policy=")
        and args[1].startswith("--registries.d=")
        and args[2:4] == ("copy", "--quiet")
    ), args
    channel = WORLD["channel"]
    if channel.get("error"):
        print(channel["error"], file=sys.stderr)
        return 1
    if not accepted("ghcr.io/veilor/veilor-os-channel", channel.get("signed_by"), args[0].split("=")[1]):
        print(UNSIGNED, file=sys.stderr)
        return 1
    folder, raw = Path(args[5].removeprefix("dir:")), channel["raw"].encode()
    digest = channel.get("digest") or "sha256:" + hashlib.sha256(raw).hexdigest()
    manifest = {
        "schemaVersion": 2,
        "layers": [{"digest": digest, "size": len(raw)}] * channel.get("layers", 1),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / digest.removeprefix("sha256:")).write_bytes(raw)
    return 0


def grub2_editenv(path, verb, *words):
    file = Path(path)
    if not file.exists():
        return fail("cannot open")
    known = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    if verb == "list":
        print(file.read_text(), end="")
        return 0
    for word in words:
        key, _, value = word.partition("=")
        known.pop(key, None) if verb == "unset" else known.update({key: value})
    file.write_text("".join(f"{key}={value}\n" for key, value in known.items()))
    return 0


def busctl(*args):
    assert (
        args[:4] == ("--system", "--auto-start=no", "--timeout=5", "--json=short")
        and args[4] == "get-property"
    ), args
    if "metered" not in WORLD:
        return fail("Call failed: The name is not activatable")
    print(json.dumps({"type": "u", "data": WORLD["metered"]}))
    return 0


def loginctl(*args):
    """One answer for each time that it is asked; the last one stays."""
    assert args == ("list-sessions", "--json=short"), args
    answers = WORLD.get("sessions", [[]])
    print(json.dumps(answers[0]))
    WORLD["sessions"] = answers[1:] or answers
    return 0


def timedatectl(*args):
    assert args == ("show", "--property=NTPSynchronized", "--value"), args
    print(WORLD.get("synchronised", "yes"))
    return 0


def usbguard(*args):
    assert args == ("generate-policy", "--no-hashes", "--with-ports"), args
    print(WORLD["usb_rules"])
    return 0


def systemctl(*args):
    if args[0] == "is-active":
        print("active")
    elif args[0] == "show":
        unit = {"Id": args[-1], "LoadState": "loaded", "ActiveState": "active", "NRestarts": "0"}
        if args[-1] == "rescue.target":
            unit["ActiveState"] = "inactive"
        unit |= WORLD.get("units", {}).get(args[-1], {})
        print("".join(f"{key}={value}\n" for key, value in unit.items()), end="")
    elif args == ("restart", "usbguard.service"):
        for path in WORLD.get("usb_shuts_out", []):
            (FOLDER / "root" / path / "authorized").write_text("0")
    elif args[0] == "disable":
        WORLD.setdefault("disabled", []).append(args[1])
    elif "reboot" in args:
        WORLD["reboots"] = WORLD.get("reboots", 0) + 1
    return 0


def call(name, argv, parent):
    """What the program NAME does with ARGV, started by the process PARENT; its exit code."""
    with (FOLDER / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([name, *argv]) + "\n")
    number = len((FOLDER / "calls.jsonl").read_text().splitlines())
    kill = WORLD.get("kill")
    if kill == [number, "before"]:
        os.kill(parent, signal.SIGKILL)
        return 1
    failures = WORLD.get("fail", {})
    override = failures.get(" ".join([name, *argv[:2]])) or failures.get(" ".join([name, *argv[:1]]))
    if override:
        print(override, file=sys.stderr)
        return 1
    work = globals().get(name.replace("-", "_"), lambda *args: 0)
    code = work(*argv)
    marker = FOLDER / "root/run/ostree/staged-deployment"
    if STATUS["staged"]:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    else:
        marker.unlink(missing_ok=True)
    if name in ("bootc", "ostree") and STATUS["booted"]:
        ordered = [entry["ostree"] for entry in entries() if entry is not STATUS["staged"]]
        names = [f"{one['checksum']}.{one['deploySerial']}" for one in ordered]
        write_loader_entries(f"{FOLDER}/root", names)
    (FOLDER / "world.json").write_text(json.dumps(WORLD))
    if kill and kill[:2] == [number, "after"]:
        os.kill(parent, signal.SIGTERM if "asked" in kill else signal.SIGKILL)
    return code


def answer(folder, name, caller, parent, *argv):
    """One call of a script: its output goes where the script's own would, its exit code to the script."""
    global FOLDER, CALLER, WORLD, STATUS
    FOLDER, CALLER = Path(folder), int(caller)
    try:
        WORLD = json.loads((FOLDER / "world.json").read_text())
        STATUS = WORLD["status"]["status"]
        with (
            open(f"/proc/{caller}/fd/1", "a") as out,
            open(f"/proc/{caller}/fd/2", "a") as err,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code = call(name, argv, int(parent))
            except Exception:
                traceback.print_exc()
                code = 1
    except OSError:  # the script, or who reads its output, is gone
        code = 1
    send(FOLDER / f"reply-{caller}", code)


def send(reply, code):
    """Hand CODE over to the script that reads from REPLY, unless it is gone."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            pipe = os.open(reply, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or not is_alive(CALLER):
                break
            time.sleep(0.0005)  # it has not come to its `read` yet
            continue
        with contextlib.suppress(BrokenPipeError):  # it was killed in the middle of its `read`
            os.write(pipe, f"{code}\n".encode())
        os.close(pipe)
        break
    reply.unlink(missing_ok=True)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def serve(requests):
    """Answer the calls that come through the pipe REQUESTS, one after the other, until the input ends."""
    pipe = os.open(requests, os.O_RDWR)
    waiting = b""
    while True:
        ready, _, _ = select.select([pipe, sys.stdin], [], [])
        if pipe not in ready:
            return
        waiting += os.read(pipe, 1 << 16)
        while (count := waiting.partition(b"\0")[0]) and waiting.count(b"\0") >= 5 + int(count):
            _, *words, waiting = waiting.split(b"\0", 5 + int(count))
            answer(*map(os.fsdecode, words))


if __name__ == "__main__":
    serve(sys.argv[1])
