"""A stand-in for every program that the device's code starts: bootc, ostree, skopeo, grub2-editenv,
systemctl, plymouth, mount, busctl, usbguard.

Called as `fake.main(WORLD, NAME, ARGV)`. WORLD is a folder: its file `world` is the machine as those
programs see it, as a Python literal, and calls.jsonl gets each argv. The tests start this thousands of
times, so it imports next to nothing: the modules json and pathlib alone would treble the time of a call.

bootc's part is a small model, held against recordings of the real one by test_fake.py. With world["kill"] =
[N, "before" | "after"] the N-th call kills the program under test before or after it has had its effect;
[N, "after", "asked"]: by SIGTERM, as systemd does at a shutdown.
"""

import os
import sys

from loader_entries import write_loader_entries

SIGKILL, SIGTERM = 9, 15
FOLDER, WORLD, STATUS = "", {}, {}  # set by main


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def to_json(value):
    """VALUE as json.dumps writes it."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_json(key)}: {to_json(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_json, value)) + "]"
    if isinstance(value, str) and value.isascii() and value.isprintable() and not set(value) & set('"\\'):
        return f'"{value}"'
    if isinstance(value, int):
        return str(value)
    import json  # just for what needs an escape

    return json.dumps(value)


def sha256(data):
    import hashlib

    return hashlib.sha256(data).hexdigest()


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


def accepted(scope, signed_by):
    """Whether one of the keys that the policy on the disk names for SCOPE is SIGNED_BY, the text of the
    signer's key.
    """
    if signed_by is None:
        return True
    import json

    rule = json.loads(read(f"{FOLDER}/root/etc/containers/policy.json"))["transports"]["docker"][scope]
    return any(read(f"{FOLDER}/root/{path.lstrip('/')}") == signed_by for path in rule[0]["keyPaths"])


UNSIGNED = (
    "Source image rejected: cryptographic signature verification failed: invalid signature when "
    "validating ASN.1 encoded signature"
)


def stage(reference, locked):
    digest = WORLD["registry"]["digest"]
    checksum = WORLD["registry"].get("checksum") or sha256(digest.encode())
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
        os.write(fd, (to_json(event) + "\nnot json\n" + to_json(event | {"bytes": 10}) + "\n").encode())
    spec = (STATUS["staged"] or STATUS["booted"])["image"]["image"] if STATUS["booted"] else None
    trusted = WORLD["registry"].get("error")
    if verb in ("switch", "upgrade") and not accepted(
        "ghcr.io/veilor/veilor-os", WORLD["registry"].get("signed_by")
    ):
        trusted = UNSIGNED
    if verb == "status":
        assert args == ["--format=json", "--format-version=1"], args
        print(to_json(WORLD["status"]))
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
    assert (
        args[0].startswith("--policy=")
        and args[1].startswith("--registries.d=")
        and args[2:4] == ("copy", "--quiet")
    ), args
    channel = WORLD["channel"]
    if channel.get("error"):
        print(channel["error"], file=sys.stderr)
        return 1
    if not accepted("ghcr.io/veilor/veilor-os-channel", channel.get("signed_by")):
        print(UNSIGNED, file=sys.stderr)
        return 1
    folder, raw = args[5].removeprefix("dir:"), channel["raw"]
    digest = channel.get("digest") or "sha256:" + sha256(raw.encode())
    manifest = {
        "schemaVersion": 2,
        "layers": [{"digest": digest, "size": len(raw.encode())}] * channel.get("layers", 1),
    }
    write(f"{folder}/manifest.json", to_json(manifest))
    write(f"{folder}/{digest.removeprefix('sha256:')}", raw)
    return 0


def grub2_editenv(path, verb, *words):
    if not os.path.exists(path):
        return fail("cannot open")
    text = read(path)
    known = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if verb == "list":
        print(text, end="")
        return 0
    for word in words:
        key, _, value = word.partition("=")
        known.pop(key, None) if verb == "unset" else known.update({key: value})
    write(path, "".join(f"{key}={value}\n" for key, value in known.items()))
    return 0


def busctl(*args):
    assert (
        args[:4] == ("--system", "--auto-start=no", "--timeout=5", "--json=short")
        and args[4] == "get-property"
    ), args
    if "metered" not in WORLD:
        return fail("Call failed: The name is not activatable")
    print(to_json({"type": "u", "data": WORLD["metered"]}))
    return 0


def usbguard(*args):
    assert args == ("generate-policy", "--no-hashes", "--no-ports-sn"), args
    print(WORLD["usb_rules"])
    return 0


def systemctl(*args):
    if args[0] == "is-active":
        print("active")
    elif args == ("restart", "usbguard.service"):
        for path in WORLD.get("usb_shuts_out", []):
            write(f"{FOLDER}/root/{path}/authorized", "0")
    elif args[0] == "disable":
        WORLD.setdefault("disabled", []).append(args[1])
    elif "reboot" in args:
        WORLD["reboots"] = WORLD.get("reboots", 0) + 1
    return 0


def main(folder, name, argv):
    global FOLDER, WORLD, STATUS
    FOLDER, WORLD = folder, eval(read(f"{folder}/world"), {})  # Machine.save wrote it
    STATUS = WORLD["status"]["status"]
    with open(f"{FOLDER}/calls.jsonl", "a") as calls:
        calls.write(to_json([name, *argv]) + "\n")
    number = read(f"{FOLDER}/calls.jsonl").count("\n")
    kill = WORLD.get("kill")
    if kill == [number, "before"]:
        os.kill(os.getppid(), SIGKILL)
        return 1
    failures = WORLD.get("fail", {})
    override = failures.get(" ".join([name, *argv[:2]])) or failures.get(" ".join([name, *argv[:1]]))
    if override:
        print(override, file=sys.stderr)
        return 1
    work = globals().get(name.replace("-", "_"), lambda *args: 0)
    code = work(*argv)
    marker = f"{FOLDER}/root/run/ostree/staged-deployment"
    if STATUS["staged"]:
        os.makedirs(os.path.dirname(marker), exist_ok=True)
        write(marker, "")
    elif os.path.exists(marker):
        os.unlink(marker)
    if name in ("bootc", "ostree") and STATUS["booted"]:
        ordered = [entry["ostree"] for entry in entries() if entry is not STATUS["staged"]]
        names = [f"{one['checksum']}.{one['deploySerial']}" for one in ordered]
        write_loader_entries(f"{FOLDER}/root", names)
    write(f"{FOLDER}/world", repr(WORLD))
    if kill and kill[:2] == [number, "after"]:
        os.kill(os.getppid(), SIGTERM if "asked" in kill else SIGKILL)
    return code
