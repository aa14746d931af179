"""Impossible joint readings are refused; real motions are not."""

import numpy as np
import pytest
from fake_arm import FakeArm, FakeArmConfig
from hypothesis import given
from hypothesis import strategies as st

from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.readings import (
    MAX_RANGES_PER_S,
    NOISE,
    ROOM,
    ImplausibleReading,
    JointReadings,
)
from ebt_policy.hardware.safety.safe_robot import SafeRobot

LOW, HIGH = -100.0, 100.0


def readings() -> JointReadings:
    return JointReadings(("a", "b"), (LOW, LOW), (HIGH, HIGH))


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0.001, 0.2)), max_size=50))
def test_an_arm_within_its_range_and_speed_is_always_believed(moves: list[tuple[float, float]]):
    checked, now, position = readings(), 0.0, 0.0
    for speed, seconds in moves:
        now += seconds
        position = float(np.clip(position + speed * MAX_RANGES_PER_S * seconds * (HIGH - LOW), LOW, HIGH))
        checked.check({"a.pos": position, "b.pos": 0.0}, now)


@given(st.floats(-1e6, 1e6) | st.just(float("nan")) | st.just(float("inf")), st.floats(0, 0.1))
def test_what_is_believed_lies_in_the_range_and_was_reachable(position: float, seconds: float):
    checked = readings()
    checked.check({"a.pos": 0.0, "b.pos": 0.0}, 5.0)
    try:
        checked.check({"a.pos": position, "b.pos": 0.0}, 5.0 + seconds)
    except ImplausibleReading as error:
        assert "'a'" in str(error)
        return
    size = HIGH - LOW
    assert LOW - ROOM * size <= position <= HIGH + ROOM * size
    assert abs(position) <= (MAX_RANGES_PER_S * seconds + NOISE) * size + 1e-6


def test_a_joint_that_was_really_moved_is_believed_again_soon():
    checked = readings()
    checked.check({"a.pos": -90.0, "b.pos": 0.0}, 0.0)
    with pytest.raises(ImplausibleReading, match="no joint is so fast"):
        checked.check({"a.pos": 90.0, "b.pos": 0.0}, 0.02)
    checked.check({"a.pos": 90.0, "b.pos": 0.0}, 0.2)
    checked.restart()
    checked.check({"a.pos": -90.0, "b.pos": 0.0}, 0.201)


@pytest.fixture
def arm(tmp_path) -> FakeArm:
    return FakeArm(FakeArmConfig(id="fake", calibration_dir=tmp_path))


@pytest.fixture
def robot(arm: FakeArm, tmp_path) -> SafeRobot:
    config = SafeRobotConfig(robot={}, id="safe", calibration_dir=tmp_path, fps=50.0, max_temperature=60.0)
    robot = SafeRobot(config, arm, lambda: 1.0)
    robot.connect()
    return robot


@pytest.mark.parametrize("wrong", [-2298.0, 80.0, float("nan")])
def test_one_wrong_reading_is_read_again_and_told_and_lasting_ones_are_an_error(
    robot, arm, monkeypatch, wrong
):
    true = robot.get_observation()
    answers = [true | {"shoulder.pos": wrong}, true]
    monkeypatch.setattr(arm, "get_observation", lambda: answers.pop(0))
    assert robot.get_observation() == true
    assert [event.kind for event in robot.events] == ["implausible"]
    monkeypatch.setattr(arm, "get_observation", lambda: true | {"shoulder.pos": wrong})
    with pytest.raises(ImplausibleReading, match="joint 'shoulder'"):
        robot.get_observation()


def test_a_temperature_is_believed_when_a_second_reading_confirms_it(robot, arm):
    def read(*temperatures: int) -> str:
        left = list(temperatures)
        arm.bus.sync_read = lambda register, normalize: {"shoulder": 40, "elbow": left.pop(0)}
        return robot.too_hot()

    assert read(252, 41) == "" and read(252, 90) == "" and read(41) == ""
    assert "'elbow' has 71" in read(70, 71)
