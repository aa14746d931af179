"""An emulated SO-101: six calibrated servos in the middle of their turn, and LeRobot's own driver for them."""

from __future__ import annotations

import json
from pathlib import Path

from lerobot.robots.robot import Robot

from ebt_policy.hardware.emulation.feetech_bus import SO101_IDS, EmulatedBus

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
LOW, HIGH, MIDDLE = 1000, 3100, 2048


def in_the_middle(bus: EmulatedBus) -> None:
    """Sets the servos' limits and turns them to the middle, as after a calibration."""
    for servo in map(bus.servo, SO101_IDS):
        servo.set("Min_Position_Limit", LOW)
        servo.set("Max_Position_Limit", HIGH)
        servo.turn_to(MIDDLE)


def driver(port: str, folder: Path) -> Robot:
    """Returns LeRobot's SO-101 with that calibration, saved in `folder`; not connected yet. Raises ImportError without
    LeRobot's Feetech extra.
    """
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    folder.mkdir(parents=True, exist_ok=True)
    calibration = {
        name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": LOW, "range_max": HIGH}
        for i, name in zip(SO101_IDS, JOINTS, strict=True)
    }
    (folder / "emulated.json").write_text(json.dumps(calibration))
    return SO101Follower(SO101FollowerConfig(port=port, id="emulated", calibration_dir=folder))
