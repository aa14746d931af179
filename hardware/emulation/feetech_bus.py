"""Emulated servo bus behind a pseudo-terminal: for a driver it is a serial port with an SO-101 arm.

    with EmulatedBus() as bus:
        robot = SO101Follower(SO101FollowerConfig(port=bus.port, ...))

Needs an operating system with pseudo-terminals (Linux, macOS).
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time
import tty
from collections.abc import Callable, Iterable
from threading import Thread
from typing import Self

from ebt_policy.hardware.emulation.feetech_faults import Faults
from ebt_policy.hardware.emulation.feetech_protocol import BROADCAST_ID, Instruction, Packet, PacketParser
from ebt_policy.hardware.emulation.feetech_servo import Servo

SO101_IDS = (1, 2, 3, 4, 5, 6)
BITS_PER_BYTE = 10  # with start and stop bit
BYTE_S = BITS_PER_BYTE / 1_000_000  # at 1 Mbaud, the only rate emulated
RETURN_DELAY_UNIT_S = 2e-6
# Longer than any scheduling pause within a packet that the host wrote at once.
SILENCE_S = 0.02
_ANSWERED_AT_LEVEL_0 = (Instruction.PING, Instruction.READ)


class EmulatedBus:
    """Answers on `port` from construction until `close`. `faults` injects faults into the replies; `servo` gives a servo.

    If the reply of one servo is lost, the others answer; while a reply is late, the bus still receives.
    """

    def __init__(
        self,
        servos: Iterable[Servo] | None = None,
        clock: Callable[[], float] = time.monotonic,
        line_timing: bool = False,
        seed: int = 0,
    ) -> None:
        """servos: default: the six of an SO-101, in the middle of their turn. clock: of these servos; the line runs in real
        time. line_timing: replies take the time of their bytes and each servo's Return_Delay_Time. seed: of the faults.
        """
        self._servos = (
            [Servo(servo_id, clock=clock) for servo_id in SO101_IDS] if servos is None else list(servos)
        )
        self._timed, self.faults = line_timing, Faults(seed)
        self._held: dict[Servo, tuple[int, bytes]] = {}  # REG_WRITE: address and data
        self._queue: list[tuple[float, int, bytes]] = []  # when to send, order, bytes
        self._order, self._line_free = itertools.count(), 0.0
        self._stalled_until = 0.0
        self._error: BaseException | None = None
        self._master, self._slave = os.openpty()
        # No echo from the first byte on, and a full buffer loses bytes as a UART does instead of blocking.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port = os.ttyname(self._slave)
        self._wake_read, self._wake_write = os.pipe()
        self._thread = Thread(target=self._run, name=f"EmulatedBus {self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def servo(self, servo_id: int) -> Servo:
        """Returns the servo of this id. Raises KeyError if there is none."""
        for servo in self._servos:
            if servo.get("ID") == servo_id:
                return servo
        raise KeyError(servo_id)

    def close(self) -> None:
        """Ends the thread and frees the port. Raises the error that ended the bus early, if any."""
        if self._master < 0:
            return
        os.write(self._wake_write, b"x")
        self._thread.join()
        for descriptor in (self._master, self._slave, self._wake_read, self._wake_write):
            os.close(descriptor)
        self._master = -1
        if self._error is not None:
            raise self._error

    # -- the line --------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._error = error

    def _serve(self) -> None:
        parser, heard = PacketParser(), 0.0
        while True:
            now = time.monotonic()
            due = [self._queue[0][0]] if self._queue else []
            if parser.pending:
                due.append(heard + SILENCE_S)
            wait = max(0.0, min(due) - now) if due else None
            ready, _, _ = select.select([self._master, self._wake_read], [], [], wait)
            if self._wake_read in ready:
                return
            packets: list[Packet] = []
            if self._master in ready:
                heard = time.monotonic()
                packets = parser.feed(os.read(self._master, 4096))
            elif parser.pending and time.monotonic() >= heard + SILENCE_S:
                packets = parser.line_silent()
            for packet in packets:
                self._line_free = max(self._line_free, time.monotonic()) + BYTE_S * len(packet.to_bytes())
                for servo, reply in self._answer(packet):
                    self._enqueue(servo, reply)
            while self._queue and self._queue[0][0] <= time.monotonic():
                self._send(heapq.heappop(self._queue)[2])

    def _enqueue(self, servo: Servo, packet: Packet) -> None:
        reply = self.faults.apply(packet)
        if reply is None:
            return
        due = time.monotonic()
        if self._timed:
            wait = servo.get("Return_Delay_Time") * RETURN_DELAY_UNIT_S
            due = self._line_free = self._line_free + wait + BYTE_S * len(reply.data)
        if reply.stall_s:
            self._stalled_until = time.monotonic() + reply.stall_s
        due = max(due + reply.delay_s, self._stalled_until)
        heapq.heappush(self._queue, (due, next(self._order), reply.data))

    def _send(self, data: bytes) -> None:
        try:
            os.write(self._master, data)
        except BlockingIOError:
            return  # nobody reads: the bytes are lost, as on a line without flow control

    # -- the servos ------------------------------------------------------------------------------------------------
    def _answer(self, packet: Packet) -> list[tuple[Servo, Packet]]:
        """Executes the instruction; returns the replies in the order in which they are sent."""
        alive = {servo.get("ID"): servo for servo in self._servos}
        alive = {servo_id: servo for servo_id, servo in alive.items() if not self.faults.dead(servo_id)}
        given = packet.parameters
        if packet.code == Instruction.SYNC_READ and len(given) >= 2:
            asked = [(i, alive[i]) for i in given[2:] if i in alive]
            return [(servo, _reply(i, servo, servo.read(given[0], given[1]))) for i, servo in asked]
        if packet.code == Instruction.SYNC_WRITE and len(given) >= 2:
            size = given[1]
            for start in range(2, len(given) - size, size + 1):
                if given[start] in alive:
                    alive[given[start]].write(given[0], given[start + 1 : start + 1 + size])
            return []
        replies = []
        for servo_id, servo in alive.items():
            if packet.id not in (servo_id, BROADCAST_ID):
                continue
            data = self._execute(servo, packet)
            answers = servo.get("Response_Status_Level") or packet.code in _ANSWERED_AT_LEVEL_0
            to_it = packet.id != BROADCAST_ID or packet.code == Instruction.PING
            if data is not None and answers and to_it:
                # With the id that was asked, even if the instruction changed it.
                replies.append((servo, _reply(servo_id, servo, data)))
        return replies

    def _execute(self, servo: Servo, packet: Packet) -> bytes | None:
        """Returns the parameters of the reply; None if the instruction is invalid and not answered."""
        given = packet.parameters
        if packet.code == Instruction.PING:
            return b""
        if packet.code == Instruction.READ and len(given) == 2:
            return servo.read(given[0], given[1])
        if packet.code == Instruction.WRITE and len(given) >= 2:
            servo.write(given[0], given[1:])
            return b""
        if packet.code == Instruction.REG_WRITE and len(given) >= 2:
            self._held[servo] = given[0], given[1:]
            return b""
        if packet.code == Instruction.ACTION:
            if servo in self._held:
                servo.write(*self._held.pop(servo))
            return b""
        return None


def _reply(servo_id: int, servo: Servo, data: bytes) -> Packet:
    return Packet(servo_id, int(servo.error), data)
