"""Packets of Feetech's serial bus, in both directions, and a parser that tolerates noise.

On the wire: 0xFF 0xFF, id, length, code, parameters, checksum. length counts what follows it; code is the instruction on
the way to a servo and its error bits on the way back; checksum is the complement of the sum of all after the header.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

HEADER = b"\xff\xff"
BROADCAST_ID = 0xFE
# Shortest and longest length byte: a code and a checksum; and what the host's SDK accepts.
MIN_LENGTH, MAX_LENGTH = 2, 250
_PREFIX = 4  # header, id, length


class Instruction(IntEnum):
    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04  # a write that waits for ACTION
    ACTION = 0x05
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


class ErrorBit(IntFlag):
    """Bits of a reply's error byte and of the Status register."""

    VOLTAGE = 0x01
    ANGLE_SENSOR = 0x02
    OVERHEAT = 0x04
    OVERCURRENT = 0x08
    OVERLOAD = 0x20


def checksum(body: Sequence[int]) -> int:
    """body: everything between the header and the checksum."""
    return ~sum(body) & 0xFF


@dataclass(frozen=True)
class Packet:
    """id: 0 to 253, or BROADCAST_ID. code: instruction or error bits. Raises ValueError for values that cannot be sent."""

    id: int
    code: int
    parameters: bytes = b""

    def __post_init__(self) -> None:
        if not (0 <= self.id <= BROADCAST_ID and 0 <= self.code <= 0xFF):
            raise ValueError(
                f"A packet needs an id of 0 to 254 and a code of one byte; found {self.id}, {self.code}."
            )
        if len(self.parameters) > MAX_LENGTH - MIN_LENGTH:
            raise ValueError(
                f"A packet carries at most {MAX_LENGTH - MIN_LENGTH} bytes; found {len(self.parameters)}."
            )

    def to_bytes(self) -> bytes:
        body = bytes([self.id, len(self.parameters) + MIN_LENGTH, self.code]) + self.parameters
        return HEADER + body + bytes([checksum(body)])


class PacketParser:
    """Finds the packets in a stream of any bytes, received in pieces of any size."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def pending(self) -> bool:
        """Whether there are bytes that may be the beginning of a packet."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[Packet]:
        """Returns the packets that `data` completes. Bytes with a wrong checksum or an impossible length are skipped."""
        self._pending += data
        found = []
        while self._align() and len(self._pending) >= _PREFIX:
            size = _PREFIX + self._pending[3]
            if self._pending[2] == 0xFF or not MIN_LENGTH <= self._pending[3] <= MAX_LENGTH:
                self._discard()
            elif len(self._pending) < size:
                break
            elif checksum(self._pending[2 : size - 1]) != self._pending[size - 1]:
                self._discard()
            else:
                found.append(Packet(self._pending[2], self._pending[4], bytes(self._pending[5 : size - 1])))
                del self._pending[:size]
        return found

    def line_silent(self) -> list[Packet]:
        """To be called after a pause: the pending bytes begin no packet. Returns the packets found behind them."""
        found = []
        while self._pending:
            self._discard()
            found += self.feed(b"")
        return found

    def _discard(self) -> None:
        # One byte only: a real packet may begin inside a false one.
        del self._pending[:1]

    def _align(self) -> bool:
        """Drops the bytes before the next header; returns whether there is one."""
        start = self._pending.find(HEADER)
        if start < 0:
            keep = 1 if self._pending.endswith(HEADER[:1]) else 0
            del self._pending[: len(self._pending) - keep]
            return False
        del self._pending[:start]
        return True
