"""A simulated task and its episode, tick by tick.

Legend: A action dimension, H/W image height, width.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs import EnvSpec
from ebt_policy.envs.simulated import Diverged
from ebt_policy.errors import UserError
from ebt_policy.hardware.sim.sim_camera import AsideShutter, Shutter

Command = NDArray[np.float64]


@dataclass(frozen=True)
class Snapshot:
    """The world after one tick. observation: as the env gives it (`SimulatedEnv`); nobody may change it.

    ticks: of this episode. success: it was solved at any of them. finished: solved, over its time, or beyond what the
    physics can follow; the world stands still from then on.
    """

    observation: dict[str, Any]
    ticks: int
    success: bool
    finished: bool


@dataclass(frozen=True)
class Scene:
    """What a world is made of. joints: those of an action, in its order, with MuJoCo's name, or "" where their numbers are
    not MuJoCo's. cameras: some of the spec's, with their (H, W) and pictures per second. aside: draw in another thread.
    time_limit: the task's time ends an episode.
    """

    spec: EnvSpec
    joints: Mapping[str, str]
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    camera_fps: float
    aside: bool
    time_limit: bool = True


class World:
    """One task and its episode. Belongs to the thread that makes it, as OpenGL's contexts do."""

    def __init__(self, scene: Scene) -> None:
        """Raises UserError where a simulator or, with cameras, OpenGL is missing."""
        self._spec, self._exposures_a_tick = scene.spec, scene.camera_fps / scene.spec.fps
        self._shutter: Shutter | None = None
        if scene.cameras:
            if "mujoco" in sys.modules and not os.environ.get("MUJOCO_GL"):
                # It has chosen another OpenGL than `ensure_rendering` would, and may wait for ever in it.
                raise UserError(
                    "This process has imported MuJoCo without OpenGL, so that simulated cameras cannot be drawn. Set MUJOCO_GL=egl "
                    "(or osmesa) in its environment, or connect a twin with cameras first."
                )
            assert scene.spec.make_with_cameras is not None  # it has names of cameras
            self._env = scene.spec.make_with_cameras(scene.cameras, scene.image_size)
            simulator = self._env.unwrapped.simulator  # type: ignore[attr-defined]
            if scene.aside:
                self._shutter = AsideShutter(simulator, partial(scene.spec.make, True))
            else:
                self._shutter = Shutter(simulator)
        else:
            self._env = scene.spec.make(False)
        if not scene.time_limit:
            _without_limit(self._env)
        self.joint_ranges = self._found_ranges(scene.joints)

    def reset(self, seed: int) -> tuple[Snapshot, Command]:
        """An episode begins. Also the command (A,) under which the arm stays where it is."""
        if self._shutter is not None:
            self._shutter.live(True)
        observation, _ = self._env.reset(seed=seed)
        if self._shutter is not None:
            self._shutter.live(False)
        self._last = Snapshot(observation, 0, False, False)
        # Of the start alone: commanded where it has just sagged to, an arm would sink on and on.
        hold = np.array(self._spec.hold(observation["agent_pos"], None), np.float64)
        return self._last, hold

    def tick(self, command: Command) -> Snapshot:
        """One control period under `command` (A,)."""
        last = self._last
        if last.finished:
            return last
        ticks = last.ticks + 1
        before, after = (math.floor(t * self._exposures_a_tick + 1e-6) for t in (last.ticks, ticks))
        if self._shutter is not None and before < after:
            self._shutter.expose()
        try:
            observation, _, terminated, truncated, info = self._env.step(command)
        except Diverged:  # beneath a disturbance; the env itself makes an end of the episode of it
            self._last = Snapshot(last.observation, ticks, last.success, True)
        else:
            success = last.success or self._spec.success(info)
            self._last = Snapshot(observation, ticks, success, bool(terminated or truncated))
        return self._last

    def close(self) -> None:
        """Gives its memory back."""
        try:
            if self._shutter is not None:
                self._shutter.close()
        finally:
            self._env.close()

    def _found_ranges(self, joints: Mapping[str, str]) -> dict[str, tuple[float, float]]:
        """Joint -> (low, high): what an action may be, within what MuJoCo lets the joint do."""
        space: Any = self._env.action_space
        physics: Any = getattr(self._env.unwrapped.simulator, "physics", None)  # type: ignore[attr-defined]
        ranges = {}
        for (joint, name), low, high in zip(joints.items(), space.low, space.high, strict=True):
            inner = (-math.inf, math.inf)
            if name and physics is not None:
                inner = physics.named.model.jnt_range[name]
            ranges[joint] = (max(float(low), float(inner[0])), min(float(high), float(inner[1])))
        return ranges


def _without_limit(env: gym.Env) -> None:
    """Lets episodes last for ever; a disturbance may be wrapped around the limit."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            env._max_episode_steps = sys.maxsize
        env = env.env
