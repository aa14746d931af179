"""One emulated servo: its registers and its motion, in simulated time."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ebt_policy.hardware.emulation.feetech_protocol import ErrorBit
from ebt_policy.hardware.emulation.feetech_registers import REGISTERS, decode, encode
from ebt_policy.hardware.emulation.feetech_servo import Servo


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


def driven(**registers: int) -> tuple[Servo, Clock]:
    clock = Clock()
    servo = Servo(clock=clock)
    servo.set("Torque_Enable", 1)
    for name, value in registers.items():
        servo.set(name, value)
    return servo, clock


def test_registers_are_where_lerobot_looks_for_them():
    from lerobot.motors.feetech.tables import (
        MODEL_CONTROL_TABLE,
        MODEL_ENCODING_TABLE,
        MODEL_NUMBER_TABLE,
        MODEL_RESOLUTION,
    )

    table = MODEL_CONTROL_TABLE["sts3215"]
    assert {name: (r.address, r.size) for name, r in REGISTERS.items()} == {
        name: table[name] for name in REGISTERS
    }
    for name, sign_bit in MODEL_ENCODING_TABLE["sts3215"].items():
        assert name not in REGISTERS or REGISTERS[name].sign_bit == sign_bit
    assert REGISTERS["Model_Number"].factory == MODEL_NUMBER_TABLE["sts3215"]
    assert REGISTERS["Max_Position_Limit"].factory == MODEL_RESOLUTION["sts3215"] - 1


@given(st.sampled_from(sorted(REGISTERS)), st.data())
def test_numbers_keep_their_sign(name: str, data: st.DataObject):
    register = REGISTERS[name]
    bits = 8 * register.size if register.sign_bit is None else register.sign_bit
    value = data.draw(st.integers(0 if register.sign_bit is None else 1 - (1 << bits), (1 << bits) - 1))
    raw = encode(register, value)
    assert len(raw) == register.size and decode(register, raw) == value
    with pytest.raises(ValueError, match=r"does not fit"):
        encode(register, 1 << bits)


def test_signs_are_magnitude_with_a_sign_bit():
    assert encode(REGISTERS["Homing_Offset"], -5) == (0x0800 | 5).to_bytes(2, "little")
    assert encode(REGISTERS["Present_Velocity"], -5) == (0x8000 | 5).to_bytes(2, "little")
    assert encode(REGISTERS["Present_Load"], -5) == (0x0400 | 5).to_bytes(2, "little")


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4000),
    st.integers(0, 254),
    st.lists(st.tuples(st.integers(-100, 5000), st.floats(0.001, 0.3)), min_size=1, max_size=8),
)
def test_never_faster_than_its_limits_nor_beyond_its_range(speed: int, slope: int, moves: list):
    servo, clock = driven(
        Goal_Velocity=speed, Acceleration=slope, Min_Position_Limit=800, Max_Position_Limit=3300
    )
    speed, slope = min(speed, 3400), 100 * (slope or 254)
    for goal, wait in moves:
        servo.set("Goal_Position", goal)
        position, velocity = servo.get("Present_Position"), servo.get("Present_Velocity")
        clock.now += wait
        assert abs(servo.get("Present_Position") - position) <= speed * wait + 1  # 1: both are rounded
        assert abs(servo.get("Present_Velocity")) <= speed
        # One step of the integration ends within the waiting time.
        assert abs(servo.get("Present_Velocity") - velocity) <= slope * (wait + 0.002) + 1
        assert 800 <= servo.get("Present_Position") <= 3300


@settings(deadline=None, max_examples=40)
@example(0, 3400, 254)  # the end of the turn
@given(st.integers(0, 4095), st.integers(400, 3400), st.integers(5, 254))
def test_reaches_its_goal_in_the_time_of_a_trapezoid_and_stays(goal: int, speed: int, slope: int):
    servo, clock = driven(Goal_Velocity=speed, Acceleration=slope, Goal_Position=goal)
    distance, slope = abs(goal - 2048), 100 * slope
    shortest = (
        distance / speed + speed / slope if distance > speed**2 / slope else 2 * (distance / slope) ** 0.5
    )
    clock.now += 0.9 * shortest
    assert distance < 20 or servo.get("Moving") == 1
    clock.now += 0.1 * shortest + 0.1
    assert servo.get("Present_Position") == goal and servo.get("Moving") == 0
    clock.now += 100
    assert servo.get("Present_Position") == goal and servo.get("Present_Velocity") == 0


def test_how_often_it_is_asked_makes_no_difference():
    once, clock_once = driven(Goal_Position=3000)
    often, clock_often = driven(Goal_Position=3000)
    for _ in range(100):
        clock_often.now += 0.002
        often.get("Present_Position")
    clock_once.now += 0.2
    assert (
        abs(once.get("Present_Position") - often.get("Present_Position")) <= 1 < once.get("Present_Velocity")
    )


def test_without_torque_it_stays_and_enabling_moves_nothing():
    servo, clock = driven(Goal_Position=3000)
    clock.now += 0.2
    servo.set("Torque_Enable", 0)
    stopped = servo.get("Present_Position")
    servo.set("Goal_Position", 100)
    clock.now += 5
    assert 2048 < servo.get("Present_Position") == stopped < 3000
    servo.turn_to(1500)
    servo.set("Torque_Enable", 1)
    clock.now += 5
    assert servo.get("Present_Position") == servo.get("Goal_Position") == 1500
    servo.turn_to(1700)  # against its torque: it comes back
    clock.now += 5
    assert servo.get("Present_Position") == 1500


def test_homing_shifts_what_is_read_and_wraps_within_a_turn():
    servo = Servo(position=100)
    servo.set("Homing_Offset", 60)
    assert servo.get("Present_Position") == 40
    servo.set("Homing_Offset", 200)
    assert servo.get("Present_Position") == 3996
    servo.set("Phase", servo.get("Phase") | 0x10)  # many turns
    assert servo.get("Present_Position") == -100


def test_a_blocked_shaft_strains_then_protects_itself_until_torque_is_cut():
    servo, clock = driven(Overload_Torque=50, Protection_Time=100, Protective_Torque=20)
    servo.block()
    servo.set("Goal_Position", 1000)
    clock.now += 0.9
    assert servo.get("Present_Position") == 2048 and servo.error == 0
    assert servo.get("Present_Load") == -1000 and servo.get("Present_Current") == -415
    assert servo.get("Present_Voltage") == 70
    clock.now += 0.2
    assert servo.error == ErrorBit.OVERLOAD == servo.get("Status")
    assert servo.get("Present_Load") == -200
    servo.block(False)
    clock.now += 2
    assert servo.error == ErrorBit.OVERLOAD
    servo.set("Torque_Enable", 0)
    assert servo.error == 0


def test_the_torque_limit_keeps_the_load_below_overload():
    servo, clock = driven(Max_Torque_Limit=500)
    servo.block()
    servo.set("Goal_Position", 1000)
    clock.now += 10
    assert servo.get("Present_Load") == -500 and servo.error == 0


def test_heat_cuts_the_torque():
    servo, clock = driven(Max_Temperature_Limit=60, Overload_Torque=255)
    servo.block()
    servo.set("Goal_Position", 1000)
    assert servo.get("Present_Temperature") == 25
    clock.now += 30
    warm = servo.get("Present_Temperature")
    assert 40 < warm < 60 and servo.error == 0
    clock.now += 60
    assert servo.error == ErrorBit.OVERHEAT and servo.get("Torque_Enable") == 0
    clock.now += 600
    assert servo.get("Present_Temperature") == 25


def test_voltage_outside_its_limits_is_an_error_while_it_lasts():
    servo, _ = driven()
    servo.supply(12.0)
    assert servo.error == ErrorBit.VOLTAGE and servo.get("Present_Voltage") == 120
    servo.supply(6.0)
    assert servo.error == 0


def test_what_is_read_only_stays():
    servo, _ = driven()
    servo.write(0, bytes(range(100, 108)))
    assert servo.get("Model_Number") == 777 and servo.get("ID") == 105
    with pytest.raises(ValueError, match=r"Present_Load is read-only"):
        servo.set("Present_Load", 3)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.binary(min_size=1, max_size=40), st.floats(0, 0.05)), max_size=8
    )
)
def test_no_bytes_break_it(writes: list):
    servo, clock = driven()
    for address, data, wait in writes:
        servo.write(address, data)
        clock.now += wait
        assert len(servo.read(0, 255)) == 128
        assert all(isinstance(servo.get(name), int) for name in REGISTERS)
