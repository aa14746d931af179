"""The twin: a simulated task as a LeRobot robot, so that a whole deployment runs without an arm."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from lerobot.cameras.utils import make_cameras_from_configs
from lerobot.robots.robot import Robot
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected
from lerobot.utils.errors import DeviceNotConnectedError

from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.hardware.control.clock import Clock
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig
from ebt_policy.hardware.sim.sim_runner import Lockstep, Realtime, Runner
from ebt_policy.hardware.sim.sim_world import Scene, Snapshot, World

_POSITION = ".pos"
logger = logging.getLogger(__name__)
_VIPERX = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
# As gym-aloha's datasets name them. Commands of grippers are normalised, and so none of MuJoCo's joints has their numbers.
_ALOHA = {
    f"{side}_{joint}": "" if joint == "gripper" else f"vx300s_{side}/{joint}"
    for side in ("left", "right")
    for joint in _VIPERX
}
# Tasks whose actions are joint positions -> their joints in the order of the action, each with MuJoCo's name.
JOINTS = {"aloha_transfer_cube": _ALOHA, "aloha_insertion": _ALOHA}


class SimRobot(Robot):
    """Until a first command, and after each reset, the arm holds its pose; later it holds the last command.

    An episode lasts until it is solved or its time is over, and the world stands still from then on; `reset` begins the
    next. Its time runs from the reset, as the world's does: reset when everything else is ready.

    Observes NAME.pos, and of the simulation alone environment_state.0 and so on (see the config); pictures are uint8
    (H, W, 3). Without `realtime`, connecting, resetting and the clock belong to one thread.
    """

    config_class = SimRobotConfig
    name = "ebt_sim"
    simulated = True  # limits in units of another arm harm nothing

    def __init__(self, config: SimRobotConfig) -> None:
        """Raises UserError for a task that is unknown or not commanded by joint positions, and for an unknown camera."""
        super().__init__(config)
        self.config, spec = config, environment(config.task)
        base = config.task.partition("+")[0]
        if base not in JOINTS:
            raise UserError(
                f"The twin is commanded by joint positions; the actions of {base} are none. Choose one of: {', '.join(JOINTS)}."
            )
        self.joints, self._spec = tuple(JOINTS[base]), spec
        for camera in config.sim_cameras:
            if camera not in spec.cameras:
                raise UserError(f"{base} has no camera '{camera}'. It has: {', '.join(spec.cameras)}.")
            if camera in config.cameras:
                raise UserError(
                    f"Two cameras are called '{camera}'. Give that of --robot.cameras another name."
                )
        if not 0 < config.camera_fps < math.inf:
            raise UserError(f"camera_fps is {config.camera_fps}; expected a number above 0.")
        self.cameras = make_cameras_from_configs(config.cameras)
        poses = len(spec.disturbances.noise) if config.environment_state else 0
        suffix = _POSITION if config.poses_in_state else ""
        self._poses = tuple(f"environment_state.{i}{suffix}" for i in range(poses))
        scene = Scene(
            spec,
            JOINTS[base],
            tuple(config.sim_cameras),
            config.image_size,
            config.camera_fps,
            aside=config.realtime,
            time_limit=config.time_limit,
        )
        # Nothing of it refers to this robot, which so can be collected while its thread runs, and then ends it.
        self._runner: Runner = (Realtime if config.realtime else Lockstep)(partial(World, scene), spec.fps)
        self._connected = False

    # -- what LeRobot asks for -----------------------------------------------------------------------------------------
    @property
    def observation_features(self) -> dict[str, Any]:
        pictures: dict[str, Any] = dict.fromkeys(self.config.sim_cameras, (*self.config.image_size, 3))
        pictures |= {name: (camera.height, camera.width, 3) for name, camera in self.cameras.items()}
        return self.action_features | dict.fromkeys(self._poses, float) | pictures

    @property
    def action_features(self) -> dict[str, Any]:
        return {name + _POSITION: float for name in self.joints}

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """Nothing to do: simulated joints know where they are."""

    def configure(self) -> None:
        """Nothing to do."""

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Makes the simulation and begins the episode of the configured seed. Raises UserError where a simulator or OpenGL
        is missing, and what a real camera raises.
        """
        self._connected = True
        try:
            self._runner.start(self.config.seed)
            for camera in self.cameras.values():
                camera.connect()
        except BaseException:
            self.disconnect()
            raise

    @check_if_not_connected
    def get_observation(self) -> dict[str, Any]:
        """The latest, without waiting. Raises DeviceNotConnectedError, also where the simulation has failed."""
        seen = self._snapshot.observation
        observation: dict[str, Any] = {
            name + _POSITION: float(x) for name, x in zip(self.joints, seen["agent_pos"], strict=True)
        }
        if self._poses:
            poses = seen["environment_state"]
            observation |= {name: float(x) for name, x in zip(self._poses, poses, strict=True)}
        # Copies: the world shows one picture until the next is drawn.
        observation |= {name: seen["pixels"][name].copy() for name in self.config.sim_cameras}
        return observation | {name: camera.read_latest() for name, camera in self.cameras.items()}

    @check_if_not_connected
    def send_action(self, action: Mapping[str, Any]) -> dict[str, float]:
        """Targets by NAME.pos, from the next tick on; joints that are not named keep theirs. Returns all of them.

        Raises UserError for unknown names and for what is no finite number, DeviceNotConnectedError as above.
        """
        _ = self._snapshot  # raises where nobody would execute it
        held = self._runner.command
        assert held is not None  # since the first snapshot
        command = held.copy()
        for name, value in action.items():
            if (
                name in self._poses
            ):  # lerobot-rollout sends back all that ends in .pos; objects cannot be commanded
                continue
            joint = name.removesuffix(_POSITION)
            if not name.endswith(_POSITION) or joint not in self.joints:
                raise UserError(
                    f"The twin has no joint for '{name}'. Expected some of: {', '.join(self.action_features)}."
                )
            if not math.isfinite(value):
                raise UserError(f"The target of '{name}' is {value}; expected a finite number.")
            command[self.joints.index(joint)] = value
        self._runner.command = command
        return {name + _POSITION: float(x) for name, x in zip(self.joints, command, strict=True)}

    def disconnect(self) -> None:
        """Ends the simulation and its thread, and releases the cameras, whatever fails on the way. The result stays.

        Raises DeviceNotConnectedError where it is not connected.
        """
        if not self._connected:
            raise DeviceNotConnectedError(f"{self} is not connected.")
        self._connected = False
        logger.info(
            "The simulated episode: %d ticks, %s", self.ticks, "solved" if self.success else "not solved"
        )
        try:
            self._runner.stop()
        finally:
            for camera in self.cameras.values():
                if camera.is_connected:
                    camera.disconnect()

    # -- what only a twin has --------------------------------------------------------------------------------------------
    @property
    def fps(self) -> int:
        """Control periods per second."""
        return self._spec.fps

    @property
    def clock(self) -> Clock:
        """The time that the twin lives in: for the control loop and its safety filter."""
        return self._runner.clock

    @check_if_not_connected
    def reset(self, seed: int) -> None:
        """Begins the episode of `seed`, and returns when the arm is in its starting pose."""
        self._runner.reset(seed)

    @property
    def success(self) -> bool:
        """Whether the task was solved at any tick of this episode."""
        return self._last is not None and self._last.success

    @property
    def finished(self) -> bool:
        """Whether this episode is over: solved, out of time, or beyond what the physics can follow or the simulation bear."""
        return self._runner.failure is not None or (self._last is not None and self._last.finished)

    @property
    def ticks(self) -> int:
        """Control periods that this episode has lasted."""
        return 0 if self._last is None else self._last.ticks

    @property
    def slow_ticks(self) -> int:
        """In real time: ticks for which the machine was too slow, so that simulated time fell behind the wall's."""
        return self._runner.slow_ticks

    @property
    def joint_ranges(self) -> dict[str, tuple[float, float]]:
        """Joint -> (low, high) in the units of its actions. Raises DeviceNotConnectedError before the first `connect`."""
        if not self._runner.joint_ranges:
            raise DeviceNotConnectedError(f"{self} knows its joints from the simulation: connect it first.")
        return dict(self._runner.joint_ranges)

    @property
    def _last(self) -> Snapshot | None:
        return self._runner.snapshot

    @property
    def _snapshot(self) -> Snapshot:
        if self._runner.failure is not None:
            raise DeviceNotConnectedError(
                f"The simulation of {self.config.task} has failed ({self._runner.failure!r}). Disconnect and connect again."
            ) from self._runner.failure
        assert self._last is not None  # since `connect`
        return self._last
