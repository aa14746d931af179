"""One emulated STS3215 servo: its memory, and its motion, load, temperature and protection in position mode.

Motion follows the registers for speed, acceleration, position and torque limits. Load, current, temperature and voltage are
plausible curves with the constants below, not measurements of a servo. In other operating modes it does not move.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from threading import RLock

from ebt_policy.hardware.emulation.feetech_protocol import ErrorBit
from ebt_policy.hardware.emulation.feetech_registers import (
    MEMORY_SIZE,
    READ_ONLY,
    REGISTERS,
    STEPS_PER_TURN,
    decode,
    encode,
    largest,
)

STEP_S = 0.002  # of the integration while the shaft turns
STRAIN_STEP_S = 0.02  # while something blocks it
AMBIENT_C = 25.0
STALL_RISE_C = 90.0  # steady temperature above ambient under full load
THERMAL_TIME_S = 100.0
STALL_CURRENT = 415  # 6.5 mA each: 2.7 A
STALL_SAG_V = 0.4  # of the supply under full load
RUNNING_LOAD = 80  # thousandths, at full speed
_MANY_TURNS = 0x10  # in Phase


class Servo:
    """Thread-safe. Each call first simulates the time since the last call.

    Without torque the shaft stays where it is (the gears hold), and the goal follows it, so enabling torque moves nothing.
    """

    def __init__(self, servo_id: int = 1, position: int = 2048, clock: Callable[[], float] = time.monotonic):
        """position: of the shaft on the encoder, in steps. clock: seconds."""
        self._memory = bytearray(MEMORY_SIZE)
        for register in REGISTERS.values():
            self._memory[register.address : register.address + register.size] = encode(
                register, register.factory
            )
        self._clock, self._now, self._lock = clock, clock(), RLock()
        self._encoder = float(position)
        self._velocity = 0.0  # steps/s
        self._temperature = AMBIENT_C
        self._strained_s = 0.0  # how long the load has been above Overload_Torque
        self._errors = ErrorBit(0)
        self._blocked = False
        self._supply_v = 7.4
        self._put("ID", servo_id)
        self._put("Goal_Position", self._present())
        self._measure()

    # -- what a bus does -------------------------------------------------------------------------------------------
    def read(self, address: int, size: int) -> bytes:
        """Returns `size` bytes of the memory, zeros beyond its end."""
        size = min(size, MEMORY_SIZE)
        with self._lock:
            self._advance()
            return bytes(self._memory[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Writes the writable bytes and ignores the others, as the device does."""
        with self._lock:
            self._advance()
            enabled = self._torque
            for offset, byte in enumerate(data, start=address):
                if offset < MEMORY_SIZE and offset not in READ_ONLY:
                    self._memory[offset] = byte
            if self._torque != enabled:
                # Switching torque on or off resets the protection and drops the last goal.
                self._errors &= ~(ErrorBit.OVERLOAD | ErrorBit.OVERHEAT)
                self._strained_s = self._velocity = 0.0
                self._put("Goal_Position", self._present())
            self._measure()

    @property
    def error(self) -> ErrorBit:
        """Error bits of a reply sent now."""
        with self._lock:
            self._advance()
            return self._errors

    # -- for tests: look inside, and act on the shaft and the supply -----------------------------------------------
    def get(self, name: str) -> int:
        """Reads a register by its name."""
        register = REGISTERS[name]
        return decode(register, self.read(register.address, register.size))

    def set(self, name: str, value: int) -> None:
        """Writes a register by its name. Raises ValueError if it is read-only or cannot hold the value."""
        register = REGISTERS[name]
        if not register.writable:
            raise ValueError(f"{name} is read-only.")
        self.write(register.address, encode(register, value))

    def block(self, blocked: bool = True) -> None:
        """Blocks or releases the shaft."""
        with self._lock:
            self._advance()
            self._blocked = blocked

    def supply(self, volts: float) -> None:
        """Sets the supply voltage."""
        with self._lock:
            self._advance()
            self._supply_v = volts
            self._measure()

    def turn_to(self, present: int) -> None:
        """Turns the shaft by hand until Present_Position reads `present` steps."""
        with self._lock:
            self._advance()
            self._encoder += present - self._present_exact()
            self._velocity = 0.0
            self._measure()

    # -- physics ---------------------------------------------------------------------------------------------------
    def _advance(self) -> None:
        now = self._clock()
        left, self._now = max(0.0, now - self._now), max(now, self._now)
        while left > 0:
            # At rest only the temperature changes; one step of any length is exact.
            resting = not self._distance() and not self._velocity
            step = left if resting else min(left, STRAIN_STEP_S if self._blocked else STEP_S)
            self._step(step)
            left -= step
        self._measure()

    def _step(self, dt: float) -> None:
        distance = self._distance()
        if self._blocked or not self._torque:
            self._velocity = 0.0
        else:
            speed, slope = self._limits()
            # Highest speed from which it can still brake within the distance, in steps of dt.
            change = slope * dt
            reach = (math.sqrt(change**2 + 8 * slope * abs(distance)) - change) / 2
            wanted = math.copysign(min(speed, reach, abs(distance) / dt), distance)
            self._velocity += min(max(wanted - self._velocity, -change), change)
            self._velocity = min(max(self._velocity, -speed), speed)
            travel = self._velocity * dt
            if abs(distance - travel) < 1e-6 and abs(self._velocity) <= change:
                travel, self._velocity = distance, 0.0
            self._encoder += travel
        load = abs(self._load())
        settled = AMBIENT_C + STALL_RISE_C * (load / 1000) ** 2
        self._temperature = settled + (self._temperature - settled) * math.exp(-dt / THERMAL_TIME_S)
        self._strained_s = self._strained_s + dt if load >= 10 * self._get("Overload_Torque") else 0.0
        if self._strained_s and self._strained_s >= self._get("Protection_Time") / 100:
            self._errors |= ErrorBit.OVERLOAD
        if self._temperature > self._get("Max_Temperature_Limit"):
            self._errors |= ErrorBit.OVERHEAT
            if self._get("Unloading_Condition") & ErrorBit.OVERHEAT:
                self._put("Torque_Enable", 0)

    def _limits(self) -> tuple[float, float]:
        """Returns the present limits: speed in steps/s, acceleration in steps/s2."""
        speed = self._get("Maximum_Velocity_Limit") * self._get("Velocity_Unit_factor")
        wanted = abs(self._get("Goal_Velocity"))
        highest = self._get("Maximum_Acceleration") or 255
        slope = 100 * min(self._get("Acceleration") or highest, highest)
        return float(min(wanted, speed) if wanted else speed), float(slope)

    def _distance(self) -> float:
        """Returns the steps to the goal, within the position limits; 0 if the shaft is not driven."""
        if not self._torque or self._get("Operating_Mode") != 0:
            return 0.0
        goal: float = self._get("Goal_Position")
        low, high = self._get("Min_Position_Limit"), self._get("Max_Position_Limit")
        if low < high:
            goal = min(max(goal, low), high)
        return goal - self._present_exact()

    def _load(self) -> float:
        """Returns the load in 1/1000 of the stall torque, with its sign."""
        if not self._torque:
            return 0.0
        limit = min(self._get("Torque_Limit"), self._get("Max_Torque_Limit"), 1000)
        if self._errors & self._get("Unloading_Condition") & ErrorBit.OVERLOAD:
            limit = min(limit, 10 * self._get("Protective_Torque"))
        if self._blocked:
            pull = self._get("P_Coefficient") * self._distance() / 4
        else:
            pull = (
                RUNNING_LOAD
                * self._velocity
                / (self._get("Maximum_Velocity_Limit") * self._get("Velocity_Unit_factor") or 1)
            )
        return min(max(pull, -limit), limit)

    def _measure(self) -> None:
        """Updates the read-only registers."""
        load = self._load()
        volts = round(10 * (self._supply_v - STALL_SAG_V * abs(load) / 1000))
        low, high = self._get("Min_Voltage_Limit"), self._get("Max_Voltage_Limit")
        self._errors &= ~ErrorBit.VOLTAGE
        if not low <= volts <= high:
            self._errors |= ErrorBit.VOLTAGE
        if not self._torque:
            self._put("Goal_Position", self._present())
        self._put("Present_Position", self._present())
        self._put("Present_Velocity", round(self._velocity))
        self._put("Present_Load", round(load))
        self._put("Present_Voltage", max(volts, 0))
        self._put("Present_Temperature", round(self._temperature))
        self._put("Present_Current", round(STALL_CURRENT * load / 1000))
        self._put("Status", int(self._errors))
        self._put("Moving", int(self._velocity != 0))

    @property
    def _torque(self) -> bool:
        return self._get("Torque_Enable") == 1

    def _present_exact(self) -> float:
        """Returns the position in steps; within one turn unless Phase says otherwise."""
        position = self._encoder - self._get("Homing_Offset")
        if self._get("Phase") & _MANY_TURNS:
            return position
        # From half a step below 0: a position just below 0, by rounding, must not become one a turn away.
        return (position + 0.5) % STEPS_PER_TURN - 0.5

    def _present(self) -> int:
        return round(self._present_exact())

    def _get(self, name: str) -> int:
        register = REGISTERS[name]
        return decode(register, self._memory[register.address : register.address + register.size])

    def _put(self, name: str, value: int) -> None:
        """Writes a measured value, clipped to what the register can hold."""
        register = REGISTERS[name]
        value = min(max(value, -largest(register)), largest(register))
        self._memory[register.address : register.address + register.size] = encode(register, value)
