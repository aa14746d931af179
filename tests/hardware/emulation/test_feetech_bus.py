"""The emulated servo bus, addressed with raw bytes through its pseudo-terminal."""

import os
import select
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebt_policy.hardware.emulation.feetech_bus import EmulatedBus
from ebt_policy.hardware.emulation.feetech_faults import FaultKind, Faults
from ebt_policy.hardware.emulation.feetech_protocol import (
    BROADCAST_ID,
    ErrorBit,
    Instruction,
    Packet,
    PacketParser,
)

GOAL, PRESENT, ID, LEVEL = 42, 56, 5, 8


class Host:
    """The other end of the line."""

    def __init__(self, port: str) -> None:
        self.line = os.open(port, os.O_RDWR | os.O_NOCTTY)

    def send(self, servo_id: int, code: int, parameters: bytes = b"") -> None:
        os.write(self.line, Packet(servo_id, code, parameters).to_bytes())

    def raw(self, wait_s: float) -> bytes:
        """What has come within wait_s of silence."""
        data = b""
        while select.select([self.line], [], [], wait_s)[0]:
            data += os.read(self.line, 4096)
        return data

    def ask(self, servo_id: int, code: int, parameters: bytes = b"", replies: int = 1) -> list[Packet]:
        """The first replies; fewer only where ten seconds brought no more."""
        self.send(servo_id, code, parameters)
        parser, found = PacketParser(), []
        while len(found) < replies and select.select([self.line], [], [], 10)[0]:
            found += parser.feed(os.read(self.line, 4096))
        return found

    def read(self, servo_id: int, address: int, size: int) -> bytes:
        return self.ask(servo_id, Instruction.READ, bytes([address, size]))[0].parameters

    def silent(self, servo_id: int, code: int, parameters: bytes = b"", other: int = 6) -> bool:
        """Whether no reply precedes the one of another servo that is asked next."""
        self.send(servo_id, code, parameters)
        return self.ask(other, Instruction.PING) == [Packet(other, 0)]


@pytest.fixture
def bus():
    with EmulatedBus(clock=lambda: 0.0) as bus:
        yield bus


@pytest.fixture
def host(bus: EmulatedBus):
    host = Host(bus.port)
    yield host
    os.close(host.line)


def test_every_instruction(bus: EmulatedBus, host: Host):
    assert host.ask(3, Instruction.PING) == [Packet(3, 0)]
    assert host.read(3, 3, 2) == b"\x09\x03"  # model 777
    assert host.ask(3, Instruction.WRITE, bytes([40, 1])) == [Packet(3, 0)]
    assert bus.servo(3).get("Torque_Enable") == 1 and bus.servo(4).get("Torque_Enable") == 0
    asked = host.ask(BROADCAST_ID, Instruction.SYNC_READ, bytes([PRESENT, 2, 5, 9, 2]), replies=2)
    assert asked == [Packet(5, 0, b"\x00\x08"), Packet(2, 0, b"\x00\x08")]
    everyone = host.ask(BROADCAST_ID, Instruction.PING, replies=6)
    assert everyone == [Packet(i, 0) for i in range(1, 7)]


def test_sync_write_reaches_each_and_is_not_answered(bus: EmulatedBus, host: Host):
    assert host.silent(BROADCAST_ID, Instruction.SYNC_WRITE, bytes([40, 1, 1, 1, 2, 1, 9, 1]))
    assert host.silent(BROADCAST_ID, Instruction.SYNC_WRITE, bytes([GOAL, 2, 1, 0x34, 2, 2, 0x78, 6]))
    assert [bus.servo(i).get("Goal_Position") for i in (1, 2, 3)] == [0x234, 0x678, 2048]


def test_a_registered_write_waits_for_its_action(bus: EmulatedBus, host: Host):
    host.ask(1, Instruction.WRITE, bytes([40, 1]))
    assert host.ask(1, Instruction.REG_WRITE, bytes([GOAL, 0, 4])) == [Packet(1, 0)]
    assert bus.servo(1).get("Goal_Position") == 2048
    assert host.silent(BROADCAST_ID, Instruction.ACTION)
    assert bus.servo(1).get("Goal_Position") == 1024


def test_a_quiet_servo_answers_only_questions(host: Host):
    assert host.silent(1, Instruction.WRITE, bytes([LEVEL, 0]))
    assert host.silent(1, Instruction.WRITE, bytes([40, 1]))
    assert host.read(1, 40, 1) == b"\x01"


def test_a_new_id_is_acknowledged_under_the_old(bus: EmulatedBus, host: Host):
    assert host.ask(1, Instruction.WRITE, bytes([ID, 20])) == [Packet(1, 0)]
    assert host.ask(20, Instruction.PING) == [Packet(20, 0)]
    with pytest.raises(KeyError):
        bus.servo(1)


def test_nonsense_is_ignored_and_half_a_packet_forgotten(host: Host):
    assert host.silent(1, 0x55) and host.silent(1, Instruction.READ) and host.silent(9, Instruction.PING)
    broken = bytearray(Packet(1, Instruction.PING).to_bytes())
    broken[-1] ^= 1
    os.write(host.line, bytes(broken))
    assert host.silent(BROADCAST_ID, Instruction.SYNC_WRITE)
    os.write(host.line, Packet(1, Instruction.WRITE, bytes(50)).to_bytes()[:20])
    # The ping sounds like the rest of that write, until the line has been silent.
    assert host.ask(2, Instruction.PING) == [Packet(2, 0)]


@settings(deadline=None, max_examples=10)
@given(
    st.lists(
        st.builds(
            Packet,
            st.sampled_from([1, 2, BROADCAST_ID]),
            st.sampled_from([*Instruction, 0x55]),
            st.binary(max_size=20),
        ),
        max_size=20,
    ),
    st.binary(max_size=30),
)
def test_no_bytes_break_it(packets: list[Packet], noise: bytes):
    with EmulatedBus(clock=lambda: 0.0) as bus:
        host = Host(bus.port)
        for packet in packets:
            os.write(host.line, packet.to_bytes())
        os.write(host.line, noise)
        host.raw(0.05)
        # A write may have changed any id, but the bus lives.
        assert host.ask(BROADCAST_ID, Instruction.PING)
        os.close(host.line)


# -- faults --------------------------------------------------------------------------------------------------------
def test_a_dropped_reply_was_obeyed_and_the_next_comes(bus: EmulatedBus, host: Host):
    bus.faults.add(FaultKind.DROP, [1], packets=2)
    assert host.silent(1, Instruction.WRITE, bytes([40, 1])) and host.silent(1, Instruction.PING)
    assert bus.servo(1).get("Torque_Enable") == 1
    assert host.ask(1, Instruction.PING) == [Packet(1, 0)]


def test_a_dead_servo_neither_hears_nor_answers_until_it_is_lifted(bus: EmulatedBus, host: Host):
    fault = bus.faults.add(FaultKind.DEAD, [1])
    assert host.silent(1, Instruction.WRITE, bytes([40, 1])) and host.silent(1, Instruction.PING)
    assert len(host.ask(BROADCAST_ID, Instruction.PING, replies=5)) == 5
    bus.faults.lift(fault)
    assert host.read(1, 40, 1) == b"\x00"


def test_a_corrupt_reply_is_as_long_and_no_packet(bus: EmulatedBus, host: Host):
    bus.faults.add(FaultKind.CORRUPT, [1], packets=1)
    host.send(1, Instruction.PING)
    host.send(2, Instruction.PING)
    expected = Packet(1, 0).to_bytes() + Packet(2, 0).to_bytes()
    heard = b""
    while len(heard) < len(expected):
        heard += host.raw(0.05)
    assert len(heard) == len(expected) and heard != expected
    assert PacketParser().feed(heard) == [Packet(2, 0)]


def test_garbage_comes_before_the_reply_and_the_same_for_the_same_seed():
    def heard(seed: int) -> list[bytes]:
        faults = Faults(seed)
        faults.add(FaultKind.GARBAGE, noise=7)
        faults.add("corrupt", [2])
        return [reply.data for i in (1, 2, 1) if (reply := faults.apply(Packet(i, 0)))]

    first, second, third = heard(3)
    assert first.endswith(Packet(1, 0).to_bytes()) and len(first) == 13 and first != third
    assert not second.endswith(Packet(2, 0).to_bytes())
    assert heard(3) == [first, second, third] != heard(4)


def test_a_slow_reply_comes_after_those_of_later_questions(bus: EmulatedBus, host: Host):
    bus.faults.add(FaultKind.DELAY, [1], packets=1, seconds=0.3)
    started = time.monotonic()
    host.send(1, Instruction.PING)
    assert host.ask(2, Instruction.PING, replies=2) == [Packet(2, 0), Packet(1, 0)]
    assert time.monotonic() - started >= 0.3


def test_error_bits_on_command(bus: EmulatedBus, host: Host):
    bus.faults.add(FaultKind.ERROR, [1, 2], bits=ErrorBit.OVERHEAT)
    bus.faults.add(FaultKind.ERROR, [1], packets=1)
    assert host.ask(1, Instruction.PING) == [Packet(1, ErrorBit.OVERHEAT | ErrorBit.OVERLOAD)]
    assert host.ask(1, Instruction.PING) == [Packet(1, ErrorBit.OVERHEAT)]
    bus.faults.lift()
    assert host.ask(1, Instruction.PING) == [Packet(1, 0)]


def test_error_bits_of_the_servo_itself_are_in_its_replies(bus: EmulatedBus, host: Host):
    bus.servo(4).supply(3.0)
    assert host.ask(4, Instruction.PING) == [Packet(4, ErrorBit.VOLTAGE)]


# -- the line ------------------------------------------------------------------------------------------------------
def test_bytes_and_delays_take_their_time_where_asked_for():
    with EmulatedBus(line_timing=True) as bus:
        host = Host(bus.port)
        for i in range(1, 7):
            bus.servo(i).set("Return_Delay_Time", 254)
        started = time.monotonic()
        host.ask(BROADCAST_ID, Instruction.SYNC_READ, bytes([0, 100, 1, 2, 3, 4, 5, 6]), replies=6)
        # 14 bytes out, six times 106 back at 10 us each, six delays of 508 us.
        assert time.monotonic() - started >= (14 + 6 * 106) * 1e-5 + 6 * 508e-6
        os.close(host.line)


def test_closing_ends_the_thread_and_frees_the_port_even_with_replies_to_come():
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    bus = EmulatedBus()
    bus.faults.add(FaultKind.DELAY, seconds=60)
    host = Host(bus.port)
    host.send(1, Instruction.PING)
    started = time.monotonic()
    bus.close()
    bus.close()
    os.close(host.line)
    assert time.monotonic() - started < 30
    assert not any(bus.port in thread.name for thread in threading.enumerate())
    assert before is None or len(os.listdir("/proc/self/fd")) == before


def test_a_host_that_never_reads_does_not_stop_the_bus(bus: EmulatedBus):
    host = Host(bus.port)
    for _ in range(300):
        host.send(1, Instruction.READ, bytes([0, 100]))
    bus.close()
    os.close(host.line)
