"""Options of the twin, a simulated task as a LeRobot robot: `--robot.type=ebt_sim --robot.task=aloha_transfer_cube`."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.cameras import CameraConfig
from lerobot.robots.config import RobotConfig


@RobotConfig.register_subclass("ebt_sim")
@dataclass(kw_only=True)
class SimRobotConfig(RobotConfig):
    """Joints are in radians and grippers from 0 (closed) to 1 (open), at 50 Hz. The defaults of `ebt_safe` are for degrees:
    around a twin give it, say, fps=50, velocity=3, acceleration=12 and start_gate=0.5.

    time_limit: end an episode when the task's time is over; without it only success ends it, which leaves time for corrections.
    task: a simulated task whose actions are joint positions, also disturbed ("aloha_transfer_cube+push:0.5").
    seed: of the first episode. realtime: a thread simulates as the wall's clock goes; otherwise time passes only while
    the loop sleeps by `SimRobot.clock`, and runs are repeatable.
    environment_state: observe the poses of the objects too, as no real arm does. poses_in_state: name them NAME.pos like
    joints; lerobot-rollout drops all other numbers, and hands these to the policy at the end of observation.state.
    """

    task: str = "aloha_transfer_cube"
    seed: int = 0
    time_limit: bool = True
    realtime: bool = True
    environment_state: bool = True
    poses_in_state: bool = False
    # Real cameras, or files, beside the simulation.
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    # Cameras in the simulation: those of the task by name, all of image_size (H, W), each drawn camera_fps times a second.
    sim_cameras: list[str] = field(default_factory=list)
    image_size: tuple[int, int] = (480, 640)  # pixels: height, width
    camera_fps: float = 10.0  # pictures a second
