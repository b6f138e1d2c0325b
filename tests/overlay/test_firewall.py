"""The real firewalld, in a network of its own: a peer behind an interface called tailscale0, and one behind
another.

The peer sends to the machine; what arrives tells what the zones do. Each fix has its negative control.
"""

from __future__ import annotations

import re

import pytest

HERE, THERE, LAN_HERE, LAN_THERE = "100.64.0.1", "100.64.0.2", "192.168.77.1", "192.168.77.2"

# {root} is the machine's root, {then} what the peers try. socat answers on the machine.
NETWORK = """
set -e
cp -a /usr/lib/firewalld /tmp/default; cp {root}/usr/lib/firewalld/zones/* /tmp/default/zones/
cp -a {root}/etc/firewalld /tmp/system
mount --bind /tmp/default /usr/lib/firewalld; mount --bind /tmp/system /etc/firewalld
mount -t tmpfs none /run; mkdir -p /run/dbus /run/firewalld /var/log
dbus-daemon --system --fork --nopidfile
unshare --net sleep 300 & peer=$!
until [ "$(readlink /proc/$peer/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
peer() { nsenter --net=/proc/$peer/ns/net "$@"; }
link() {
  ip link add name "$1" type veth peer name "$2"; ip link set "$2" netns $peer
  ip addr add "$3/24" dev "$1"; ip link set "$1" up; peer ip addr add "$4/24" dev "$2"; peer ip link set "$2" up
}
ip link set lo up
link tailscale0 ts HERE THERE; link lan0 lan LAN_H LAN_T
firewalld --nofork --nopid >/tmp/log 2>&1 & daemon=$!
for try in $(seq 150); do firewall-cmd --state >/dev/null 2>&1 && break; kill -0 $daemon || { cat /tmp/log; exit 9; }; sleep 0.2; done
socat TCP-LISTEN:2222,fork,reuseaddr SYSTEM:'echo open' &
until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':08AE 0*:0000 0A'; do sleep 0.1; done
set +e
{then}
kill $daemon $peer
cat /tmp/log >&2
"""  # noqa: E501
for _name, _value in (("HERE", HERE), ("THERE", THERE), ("LAN_H", LAN_HERE), ("LAN_T", LAN_THERE)):
    NETWORK = re.sub(rf"\b{_name}\b", _value, NETWORK)

PEER = """
import socket, struct, sys
kind, where = sys.argv[1:]
try:
    if kind == "tcp":
        with socket.create_connection((where, 2222), 2) as peer:
            print(peer.recv(9).decode().strip())
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as peer:
            peer.settimeout(2)
            head = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
            total = sum(struct.unpack("!4H", head))
            peer.sendto(struct.pack("!BBHHH", 8, 0, 0xFFFF - (total & 0xFFFF) - (total >> 16), 7, 1), (where, 0))
            print("answer" if peer.recv(99)[20] == 0 else "no answer")
except TimeoutError:
    print("silence")
except OSError as error:
    print("refused")
"""  # noqa: E501


@pytest.fixture
def firewall(machine, run, tmp_path):
    """Start firewalld with the machine's zones; what the peer saw for each (kind, address) it tried, and run
    MORE first.
    """

    def go(*tries, more=""):
        (tmp_path / "peer.py").write_text(PEER)
        then = more + "\n" + "\n".join(f"peer python3 {tmp_path}/peer.py {kind} {to}" for kind, to in tries)
        code, said, errors = run(NETWORK.replace("{root}", str(machine)).replace("{then}", then), timeout=120)
        assert code == 0, said + errors
        return said.split("\n")[:-1]

    return go


def test_the_zones_as_shipped(firewall):
    tries = [("ping", HERE), ("tcp", HERE), ("ping", LAN_HERE), ("tcp", LAN_HERE)]
    assert firewall(*tries) == ["answer", "refused", "silence", "silence"]


def test_without_a_zone_of_its_own_tailscale_is_silent(firewall, machine):
    (machine / "usr/lib/firewalld/zones/tailscale.xml").unlink()
    assert firewall(("ping", HERE)) == ["silence"]


def test_in_the_trusted_zone_everything_would_be_open(firewall):
    more = "firewall-cmd -q --zone=trusted --change-interface=tailscale0"
    assert firewall(("tcp", HERE), more=more) == ["open"]


def test_without_our_default_zone_strangers_get_an_answer(firewall, machine):
    conf = machine / "etc/firewalld/firewalld.conf"
    conf.write_text(conf.read_text().replace("DefaultZone=veilor", "DefaultZone=public"))
    assert firewall(("ping", LAN_HERE), ("tcp", LAN_HERE)) == ["answer", "refused"]


def test_the_person_opens_a_service_for_tailscale_alone(firewall):
    more = "firewall-cmd -q --zone=tailscale --add-port=2222/tcp"
    assert firewall(("tcp", HERE), ("tcp", LAN_HERE), more=more) == ["open", "silence"]
