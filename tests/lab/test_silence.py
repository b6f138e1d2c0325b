"""Whose fault a silent machine is, by what its kernel and QEMU said."""

import threading
from types import SimpleNamespace

import pytest

from veilor.lab.console import Console
from veilor.lab.machine import Machine
from veilor.lab.verdict import LabFault, OSFault

# As a kernel 6.12 said it under QEMU 10 without KVM.
LOST = (
    b"[   22.742024] rcu: rcu_preempt kthread timer wakeup didn't happen for 5251 jiffies! g-1155 f0x0 "
    b"RCU_GP_WAIT_FQS(5)\r\n"
)
STALL = b"[   22.720323] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\r\n"


def machine(tmp_path, said, accel="tcg", ended=None):
    console = Console.__new__(Console)
    console.buffer, console._lock = bytearray(said), threading.Condition()
    (tmp_path / "qemu.log").write_text("out of memory\n")
    made = Machine.__new__(Machine)
    made.dir, made.console, made.hardware, made._ended = (
        tmp_path,
        console,
        SimpleNamespace(accel=accel),
        False,
    )
    made.process = SimpleNamespace(poll=lambda: ended, returncode=ended)
    return made


@pytest.mark.parametrize("said, accel, ended, fault, words", [
    (b"Starting udev\r\n", "tcg", None, OSFault, "last words: Starting udev"),
    # a stall alone can be the product's: a driver that holds a processor
    (STALL, "tcg", None, OSFault, "detected stalls"),
    (STALL + LOST, "tcg", None, LabFault, "lost a timer"),
    (STALL + LOST, "kvm", None, OSFault, "last words"),
    (b"", "tcg", -9, LabFault, "QEMU died while waiting for the prompt (exit -9) out of memory"),
])  # fmt: skip
def test_a_silence_is_the_labs_only_with_evidence(tmp_path, said, accel, ended, fault, words):
    found = machine(tmp_path, said, accel, ended).fault_for_silence("the prompt")
    assert type(found) is fault and words in str(found)


@pytest.mark.parametrize(
    "said, fault, words",
    [(b"", OSFault, "last answer after 0 s: 3 inactive"), (LOST, LabFault, "lost a timer")],
)
def test_a_wait_that_ends_is_judged_the_same_way(tmp_path, said, fault, words):
    one = machine(tmp_path, said)
    one.clock = iter(range(9)).__next__
    one.run = lambda argv, **more: SimpleNamespace(code=3, out="inactive\n", err="")
    with pytest.raises(fault, match=words):
        one.wait_unit("auditd.service", timeout=0)
