"""Keeps late replies of a servo bus from being taken for replies to a later question.

Replies carry no sequence number. When a USB adapter stalls, the host gives up, asks again, and the late reply is still on its
way: it then answers the wrong question, and so does every reply after it. The SDKs of Feetech and Dynamixel, which LeRobot
uses, empty only the output before they send (`Serial.flush`), never the input.
"""

from __future__ import annotations

import time
from typing import Any

QUIET_S = 0.02  # a USB adapter keeps bytes back for up to 16 ms
MAX_DRAIN_S = 0.2
# Layout of Feetech's packets.
_ID, _LENGTH, _ERROR, _PARAMETERS = 2, 3, 4, 5
_SUCCESS = 0


class ReplyGuard:
    """Changes the port and the packet handler of one LeRobot motor bus in place:

    - before each packet is sent, what is left in the input is discarded;
    - after a transaction that failed, and before the next one, it reads until the line was silent for QUIET_S;
    - a Feetech reply to a read must have as many bytes as were asked for (the SDK takes any number).
    """

    def __init__(self, bus: Any) -> None:
        """bus: a `SerialMotorsBus` of LeRobot."""
        self._port, self._packets = bus.port_handler, bus.packet_handler
        self._clear_output, self._receive = self._port.clearPort, self._packets.rxPacket
        self._distrusted = False
        self._port.clearPort, self._packets.rxPacket = self._clear, self._received
        if type(self._packets).__module__.startswith("scservo_sdk"):
            self._packets.readRx = self._read

    def distrust(self) -> None:
        """The next transaction begins on a silent line, as after a failed one."""
        self._distrusted = True

    def _clear(self) -> None:
        """Replaces `clearPort`, which the SDK calls before it sends."""
        if self._distrusted:
            self._drain()
            self._distrusted = False
        self._clear_output()
        self._port.ser.reset_input_buffer()

    def _drain(self) -> None:
        begin = heard = time.monotonic()
        while (now := time.monotonic()) - heard < QUIET_S and now - begin < MAX_DRAIN_S:
            if self._port.ser.in_waiting:
                self._port.ser.reset_input_buffer()
                heard = now
            time.sleep(0.001)

    def _received(self, *arguments: Any, **options: Any) -> Any:
        """Replaces `rxPacket`: (packet, result)."""
        packet, result = self._receive(*arguments, **options)
        self._distrusted |= result != _SUCCESS
        return packet, result

    def _read(self, port: Any, servo_id: int, length: int) -> tuple[list[int], int, int]:
        """Replaces Feetech's `readRx`: (data, result, error bits) of the next reply that fits. The port sets the timeout."""
        while True:
            packet, result = self._packets.rxPacket(port)
            if result != _SUCCESS:
                return [], result, 0
            if packet[_ID] == servo_id and packet[_LENGTH] == length + 2:  # error bits and checksum count too
                return list(packet[_PARAMETERS : _PARAMETERS + length]), result, packet[_ERROR]


def guard_replies(bus: Any) -> ReplyGuard | None:
    """The guard of this bus, made at the first call. None if it is no serial bus of LeRobot."""
    if not hasattr(bus, "port_handler") or not hasattr(bus, "packet_handler"):
        return None
    if not hasattr(bus, "_ebt_reply_guard"):
        bus._ebt_reply_guard = ReplyGuard(bus)
    guard: ReplyGuard = bus._ebt_reply_guard
    return guard
