"""What the kernel and the initramfs are told: modprobe's answer, and an initramfs made by the real dracut."""

from __future__ import annotations

import subprocess
import tomllib

import pytest

BLOCKED = ("firewire-core", "thunderbolt", "sctp", "n-hdlc", "cramfs")


def depends(run, machine, module, more=""):
    """What modprobe would do for MODULE."""
    return run(
        f"{more} modprobe --config={machine}/usr/lib/modprobe.d --dry-run --verbose --show-depends {module}"
    )


@pytest.mark.parametrize("module", BLOCKED)
def test_a_module_is_kept_out(module, machine, run):
    assert depends(run, machine, module)[1].strip() == "install /usr/bin/false"


def test_without_its_line_it_is_not(machine, run):
    conf = machine / "usr/lib/modprobe.d/veilor.conf"
    conf.write_text(conf.read_text().replace("install thunderbolt", "# install thunderbolt"))
    assert "install" not in depends(run, machine, "thunderbolt")[1]


def test_a_persons_exception_counts(machine, run):
    """Two lines for one module: modprobe takes the first, by the order of the files' names."""
    exception = "install thunderbolt /usr/sbin/modprobe --ignore-install thunderbolt\n"
    (machine / "usr/lib/modprobe.d/99-thunderbolt.conf").write_text(exception)
    assert "--ignore-install" in depends(run, machine, "thunderbolt")[1]


def test_what_the_rehearsal_and_usb_need_stays(machine, run):
    for module in (
        "9p",
        "9pnet_virtio",
        "virtio_console",
        "squashfs",
        "usbhid",
        "usb-storage",
        "dummy_hcd",
        "mac80211_hwsim",
    ):
        assert "/usr/bin/false" not in depends(run, machine, module)[1]


def test_signed_modules_are_enforced_and_nothing_is_latched(machine):
    arguments = tomllib.loads((machine / "usr/lib/bootc/kargs.d/10-veilor.toml").read_text())["kargs"]
    assert {"module.sig_enforce=1", "panic=30", "rd.shell=0", "rd.emergency=reboot"} <= set(arguments)
    found = subprocess.run(
        ["grep", "-rhE", r"^[^#]*modules_disabled", machine],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout == ""


# The kernel's modules as dracut reads them: objects that carry a name and the firmware they ask for, and
# nothing else. kbd isn't in the tools tree, so its programs and one layout are made up: what is looked at is
# whether dracut takes them.
INITRAMFS = """
set -e
base=/tmp/base; modules=$base/lib/modules/6.0.0-test; mkdir -p $modules /var/tmp /tmp/stub /tmp/conf
for name in i915 xe amdgpu nouveau another; do
  mkdir -p $modules/kernel/drivers/gpu/drm/$name /tmp/firmware/$name
  echo firmware >/tmp/firmware/$name/test.bin
  for line in name=$name firmware=$name/test.bin license=GPL; do
    echo "__attribute__((section(\\".modinfo\\"),used)) static const char ${line%%=*}[] = \\"$line\\";"
  done >/tmp/$name.c
  gcc -c -o $modules/kernel/drivers/gpu/drm/$name/$name.ko /tmp/$name.c
done
touch $modules/modules.order $modules/modules.builtin $modules/modules.builtin.modinfo
depmod -b $base 6.0.0-test
for folder in keymaps consolefonts unimaps consoletrans; do mkdir -p /tmp/kbd/$folder; echo x >/tmp/kbd/$folder/de.map; done
for program in loadkeys setfont; do printf '#!/bin/sh\\n' >/tmp/stub/$program; chmod 755 /tmp/stub/$program; done
cp {root}/usr/lib/dracut/dracut.conf.d/* /tmp/conf/ || true
echo kbddir=/tmp/kbd >/tmp/conf/99-test.conf
DRACUT_PATH="/tmp/stub /usr/sbin /usr/bin" dracut --quiet --force --no-hostonly --conf /dev/null --confdir /tmp/conf \\
  --kmoddir $modules --fwdir /tmp/firmware --tmpdir /tmp --modules kernel-modules --no-early-microcode /tmp/out.img 6.0.0-test
zstd -dcq /tmp/out.img | cpio -it --quiet
"""  # noqa: E501


@pytest.fixture
def initramfs(machine, run):
    """The names in an initramfs that dracut makes by the machine's dracut.conf.d."""

    def go():
        code, said, errors = run(INITRAMFS.replace("{root}", str(machine)), timeout=120)
        assert code == 0, said + errors
        return said.splitlines()

    return go


def drivers(names):
    return {name.rpartition("/")[2].removesuffix(".ko") for name in names if name.endswith(".ko")}


def test_graphics_drivers_their_firmware_and_every_keyboard_layout_are_in_the_initramfs(initramfs):
    names = initramfs()
    assert drivers(names) == {"i915", "xe", "amdgpu", "nouveau"}
    assert {name.split("/")[-2] for name in names if name.endswith("test.bin")} == drivers(names)
    assert any(name.endswith("keymaps/de.map") for name in names)


def test_without_our_configuration_they_are_not(initramfs, machine):
    (machine / "usr/lib/dracut/dracut.conf.d/60-veilor.conf").unlink()
    names = initramfs()
    assert drivers(names) == set() and not any(name.endswith("keymaps/de.map") for name in names)
