"""LeRobot's own SO-101 leader, unmodified, on emulated servos: matched to the arm, released, unplugged and connected again."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ebt_policy.hardware.emulation.feetech_bus import SO101_IDS, EmulatedBus
from ebt_policy.hardware.emulation.feetech_faults import FaultKind
from ebt_policy.hardware.emulation.feetech_so101 import HIGH, JOINTS, LOW, in_the_middle
from ebt_policy.hardware.takeover.device import connect, device_for
from ebt_policy.hardware.takeover.leader import Leader, LeaderState

sdk_port = pytest.importorskip("scservo_sdk.port_handler", reason="needs the extra feetech")
from lerobot.teleoperators.so_leader import SO101Leader, SO101LeaderConfig  # noqa: E402

WIDTHS = np.array([180.0] * 5 + [100.0])
HZ = 20.0


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedBus]:
    # The driver's clock goes slowly, so that a busy machine is no silent servo.
    monkeypatch.setattr(sdk_port, "time", SimpleNamespace(time=lambda: time.time() / 8))
    with EmulatedBus() as bus:
        in_the_middle(bus)
        yield bus


@pytest.fixture
def leader(bus: EmulatedBus, tmp_path: Path) -> Iterator[Leader]:
    calibration = {
        name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": LOW, "range_max": HIGH}
        for i, name in zip(SO101_IDS, JOINTS, strict=True)
    }
    (tmp_path / "leader.json").write_text(json.dumps(calibration))
    teleop = SO101Leader(SO101LeaderConfig(port=bus.port, id="leader", calibration_dir=tmp_path))
    connect(teleop)
    yield Leader(teleop, device_for(teleop, JOINTS, WIDTHS), JOINTS, WIDTHS, HZ, match_speed=2.0)
    bus.faults.lift()
    if teleop.is_connected:
        teleop.disconnect()


def torque(bus: EmulatedBus) -> set[int]:
    return {bus.servo(i).get("Torque_Enable") for i in SO101_IDS}


def test_its_motors_go_to_the_arms_pose_and_let_go_for_the_operator(bus: EmulatedBus, leader: Leader):
    leader.work(0.0)
    start = leader.reading.positions
    assert start is not None and torque(bus) == {0}
    goal = np.clip(start + np.array([20.0, -15.0, 10.0, 5.0, -20.0, 15.0]), -90, 90)
    leader.wish(LeaderState.MATCHING, goal)
    for k in range(1, 30):
        leader.work(k / HZ)
        if leader.reading.state is LeaderState.READY:
            break
    assert leader.reading.matched and torque(bus) == {1}
    time.sleep(1.0)  # the servos are on their way
    leader.work(2.0)
    assert leader.reading.positions == pytest.approx(goal, abs=2.0)
    leader.wish(LeaderState.DRIVEN)
    leader.work(2.05)
    assert leader.reading.state is LeaderState.DRIVEN and torque(bus) == {0}


def test_unplugged_it_is_told_and_connected_again(bus: EmulatedBus, leader: Leader):
    leader.work(0.0)
    bus.faults.add(FaultKind.DROP)
    leader.work(0.1)
    assert leader.reading.trouble and leader.reading.stamp == 0.0
    bus.faults.lift()
    leader.work(5.0)
    leader.work(5.1)
    assert not leader.reading.trouble and leader.reading.stamp >= 5.0
