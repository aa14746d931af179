"""The registers of an STS3215 servo: addresses, sizes, signs and factory values, after Feetech's memory table.

Unless noted otherwise, steps are 1/4096 of a turn of the output shaft, and torques and loads 1/1000 of the stall torque.
"""

from __future__ import annotations

from typing import NamedTuple

MEMORY_SIZE = 128
STEPS_PER_TURN = 4096
MODEL_NUMBER = 777


class Register(NamedTuple):
    """address: of the low byte. sign_bit: of sign-magnitude numbers; None if the number has no sign."""

    address: int
    size: int = 1
    sign_bit: int | None = None
    factory: int = 0
    writable: bool = True


REGISTERS: dict[str, Register] = {
    "Firmware_Major_Version": Register(0, factory=3, writable=False),
    "Firmware_Minor_Version": Register(1, factory=10, writable=False),
    "Model_Number": Register(3, 2, factory=MODEL_NUMBER, writable=False),
    # kept without power
    "ID": Register(5, factory=1),
    "Baud_Rate": Register(6),  # 0: 1 Mbaud
    "Return_Delay_Time": Register(7, factory=250),  # 2 us
    "Response_Status_Level": Register(8, factory=1),  # 0: only PING and reads are answered
    "Min_Position_Limit": Register(9, 2),  # steps
    "Max_Position_Limit": Register(11, 2, factory=4095),  # steps
    "Max_Temperature_Limit": Register(13, factory=70),  # deg C
    "Max_Voltage_Limit": Register(14, factory=80),  # 0.1 V
    "Min_Voltage_Limit": Register(15, factory=40),  # 0.1 V
    "Max_Torque_Limit": Register(16, 2, factory=1000),
    "Phase": Register(18, factory=12),  # bit 4: positions count on over many turns
    "Unloading_Condition": Register(19, factory=44),  # error bits that weaken or cut the drive
    "LED_Alarm_Condition": Register(20, factory=47),  # error bits
    "P_Coefficient": Register(21, factory=32),
    "D_Coefficient": Register(22, factory=32),
    "I_Coefficient": Register(23),
    "Minimum_Startup_Force": Register(24, 2, factory=16),
    "CW_Dead_Zone": Register(26, factory=1),  # steps
    "CCW_Dead_Zone": Register(27, factory=1),  # steps
    "Protection_Current": Register(28, 2, factory=500),  # 6.5 mA
    "Angular_Resolution": Register(30, factory=1),
    "Homing_Offset": Register(31, 2, sign_bit=11),  # steps; Present_Position = encoder - Homing_Offset
    "Operating_Mode": Register(33),  # 0: position
    "Protective_Torque": Register(34, factory=20),  # percent, left after an overload
    "Protection_Time": Register(35, factory=200),  # 10 ms of overload until protection begins
    "Overload_Torque": Register(36, factory=80),  # percent
    "Over_Current_Protection_Time": Register(38, factory=200),  # 10 ms
    # forgotten without power
    "Torque_Enable": Register(40),
    "Acceleration": Register(41),  # 100 steps/s2; 0: Maximum_Acceleration
    "Goal_Position": Register(42, 2, sign_bit=15),  # steps
    "Goal_Time": Register(44, 2),
    "Goal_Velocity": Register(46, 2, sign_bit=15),  # steps/s; 0: Maximum_Velocity_Limit
    "Torque_Limit": Register(48, 2, factory=1000),
    "Lock": Register(55, factory=1),
    "Present_Position": Register(56, 2, sign_bit=15, writable=False),  # steps
    "Present_Velocity": Register(58, 2, sign_bit=15, writable=False),  # steps/s
    "Present_Load": Register(60, 2, sign_bit=10, writable=False),
    "Present_Voltage": Register(62, writable=False),  # 0.1 V
    "Present_Temperature": Register(63, writable=False),  # deg C
    "Status": Register(65, writable=False),  # error bits
    "Moving": Register(66, writable=False),
    "Present_Current": Register(69, 2, sign_bit=15, writable=False),  # 6.5 mA
    # set by the factory
    "Velocity_Unit_factor": Register(82, factory=50),  # steps/s in one unit of Maximum_Velocity_Limit
    "Maximum_Velocity_Limit": Register(84, factory=68),
    "Maximum_Acceleration": Register(85, factory=254),  # 100 steps/s2
}

READ_ONLY = frozenset(
    address
    for register in REGISTERS.values()
    if not register.writable
    for address in range(register.address, register.address + register.size)
)


def largest(register: Register) -> int:
    """Returns the largest magnitude that the register can hold."""
    return (1 << (8 * register.size if register.sign_bit is None else register.sign_bit)) - 1


def encode(register: Register, value: int) -> bytes:
    """Returns the bytes of a value, low byte first. Raises ValueError if the register cannot hold it."""
    sign = 0
    if register.sign_bit is not None and value < 0:
        sign, value = 1 << register.sign_bit, -value
    if not 0 <= value <= largest(register):
        raise ValueError(
            f"{value} does not fit the register at address {register.address}: its magnitude ends at {largest(register)}."
        )
    return (value | sign).to_bytes(register.size, "little")


def decode(register: Register, data: bytes | bytearray) -> int:
    """Returns the number in a register's bytes."""
    raw = int.from_bytes(data, "little")
    if register.sign_bit is None:
        return raw
    magnitude = raw & ((1 << register.sign_bit) - 1)
    return -magnitude if raw >> register.sign_bit & 1 else magnitude
