"""Faults of a servo bus, injected on command and repeatably: lost, damaged and late replies, noise, error bits, a stall."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

from ebt_policy.hardware.emulation.feetech_protocol import ErrorBit, Packet


class FaultKind(StrEnum):
    DROP = "drop"  # the instruction is obeyed and the reply never comes
    DEAD = "dead"  # the servo neither receives nor answers, and holds its last goal; until lifted
    CORRUPT = "corrupt"  # one byte after the length is wrong, so the checksum does not fit
    DELAY = "delay"  # the reply comes `seconds` later
    GARBAGE = "garbage"  # `noise` random bytes come before the reply
    ERROR = "error"  # the reply carries `bits` besides its own error bits
    STALL = "stall"  # from this reply on, the adapter keeps all bytes back for `seconds`, then delivers them in order


@dataclass(eq=False)
class Fault:
    """ids: of the servos concerned; None: all. packets: number of replies still to change; None: until lifted."""

    kind: FaultKind
    ids: frozenset[int] | None = None
    packets: int | None = None
    seconds: float = 0.0
    noise: int = 5
    bits: ErrorBit = ErrorBit.OVERLOAD

    @property
    def spent(self) -> bool:
        return self.packets is not None and self.packets <= 0


@dataclass(frozen=True)
class Reply:
    """What reaches the host for one reply.

    delay_s: added to the line's own time. stall_s: from now on, for so long, the host receives nothing.
    """

    data: bytes
    delay_s: float = 0.0
    stall_s: float = 0.0


class Faults:
    """The active faults. Thread-safe; the same seed and replies give the same bytes."""

    def __init__(self, seed: int = 0) -> None:
        self._random, self._lock = random.Random(seed), Lock()
        self._active: list[Fault] = []

    def add(
        self,
        kind: FaultKind,
        ids: Iterable[int] | None = None,
        packets: int | None = None,
        *,
        seconds: float = 0.0,
        noise: int = 5,
        bits: ErrorBit = ErrorBit.OVERLOAD,
    ) -> Fault:
        """Starts a fault now, and returns it for `lift`."""
        fault = Fault(FaultKind(kind), None if ids is None else frozenset(ids), packets, seconds, noise, bits)
        with self._lock:
            self._active.append(fault)
        return fault

    def lift(self, fault: Fault | None = None) -> None:
        """Ends one fault, or all faults."""
        with self._lock:
            self._active = [other for other in self._active if fault is not None and other is not fault]

    def dead(self, servo_id: int) -> bool:
        with self._lock:
            return any(
                fault.kind is FaultKind.DEAD and (fault.ids is None or servo_id in fault.ids)
                for fault in self._active
            )

    def apply(self, reply: Packet) -> Reply | None:
        """Returns what is sent instead of the reply; None: nothing. Each fault that concerns the reply counts it."""
        with self._lock:
            mine = [fault for fault in self._active if fault.ids is None or reply.id in fault.ids]
            for fault in mine:
                if fault.packets is not None:
                    fault.packets -= 1
            self._active = [fault for fault in self._active if not fault.spent]
            return self._changed(reply, mine)

    def _changed(self, reply: Packet, faults: list[Fault]) -> Reply | None:
        kinds = {fault.kind for fault in faults}
        if FaultKind.DROP in kinds:
            return None
        code = reply.code
        for fault in faults:
            if fault.kind is FaultKind.ERROR:
                code |= fault.bits
        data = bytearray(Packet(reply.id, code, reply.parameters).to_bytes())
        if FaultKind.CORRUPT in kinds:
            # After the length: a wrong length would make the host wait for bytes that never come, which is DROP.
            data[self._random.randrange(4, len(data))] ^= self._random.randrange(1, 0x80)
        noise = b"".join(
            self._random.randbytes(fault.noise) for fault in faults if fault.kind is FaultKind.GARBAGE
        )
        late = sum(fault.seconds for fault in faults if fault.kind is FaultKind.DELAY)
        stall = max((fault.seconds for fault in faults if fault.kind is FaultKind.STALL), default=0.0)
        return Reply(noise + bytes(data), late, stall)
