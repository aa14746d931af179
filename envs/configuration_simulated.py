"""Adroit, ALOHA, Meta-World and robosuite for LeRobot's commands: `--env.type=adroit`, `ebt_aloha`, `ebt_metaworld`, `robosuite`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import gymnasium as gym
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE

from ebt_policy.envs.disturbances.kinds import parse
from ebt_policy.envs.registry import environment, make_disturbed
from ebt_policy.envs.rendering import ensure_rendering
from ebt_policy.envs.vector import make_vector
from ebt_policy.errors import UserError

if TYPE_CHECKING:
    from ebt_policy.envs.simulated import TaskSpec


@dataclass
class _SimulatedEnv(EnvConfig):
    """A MuJoCo task: robot state, object poses and the pictures of `cameras`.

    image_size: (H, W) in pixels. episode_length: ticks; None: the published limit. hold_ticks: consecutive ticks for which the
    task has to be solved. disturbance: "KIND" or "KIND:STRENGTH", see envs/disturbances/kinds.py.
    """

    MODULE: ClassVar[str]
    PREFIX: ClassVar[str]  # of the environment names
    cameras: list[str] = field(default_factory=list)
    image_size: tuple[int, int] = (96, 96)
    episode_length: int | None = None
    hold_ticks: int = 1
    disturbance: str | None = None
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tasks: dict[str, TaskSpec] = self._module().TASKS
        if self.task not in tasks:
            raise ValueError(f"env.task is '{self.task}'; {self.type} offers {', '.join(tasks)}.")
        task = tasks[self.task]
        for camera in self.cameras:
            if camera not in task.cameras:
                raise ValueError(f"env.cameras has '{camera}'; {self.task} has {', '.join(task.cameras)}.")
        if self.disturbance is not None:
            try:
                parse(environment(self._name()), self.disturbance)
            except UserError as error:
                raise ValueError(f"env.disturbance is '{self.disturbance}'. {error}") from error
        self.fps = task.fps
        self.episode_length = self.episode_length or task.max_ticks
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (len(task.low),)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (task.state_size,)),
            "environment_state": PolicyFeature(FeatureType.ENV, (task.environment_size,)),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE, "environment_state": OBS_ENV_STATE}
        for camera in self.cameras:
            self.features[f"pixels/{camera}"] = PolicyFeature(FeatureType.VISUAL, (*self.image_size, 3))
            self.features_map[f"pixels/{camera}"] = f"{OBS_IMAGES}.{camera}"

    @property
    def gym_kwargs(self) -> dict:
        return {
            "task": self.task,
            "cameras": tuple(self.cameras),
            "image_size": tuple(self.image_size),
            "max_ticks": self.episode_length,
            "hold_ticks": self.hold_ticks,
        }

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """{type: {0: a vector of n_envs}}. All can render, because LeRobot may record any of them."""
        ensure_rendering()  # before the workers start: they inherit the setting
        factory = partial(self._module().make, **self.gym_kwargs, render=True)
        if self.disturbance is not None:
            factory = partial(make_disturbed, factory, self._name(), self.disturbance)
        return {self.type: {0: make_vector(factory, n_envs, use_async_envs)}}

    def _name(self) -> str:
        return f"{self.PREFIX}_{str(self.task).lower()}"

    def _module(self) -> ModuleType:
        """The module with TASKS and make(task, ...)."""
        return importlib.import_module(f"ebt_policy.envs.{self.MODULE}")


@EnvConfig.register_subclass("adroit")
@dataclass
class EBTAdroitEnv(_SimulatedEnv):
    """gymnasium-robotics' Adroit hand at 100 Hz: the task `door`."""

    MODULE: ClassVar[str] = "adroit"
    PREFIX: ClassVar[str] = "adroit"
    task: str | None = "door"
    fps: int = 100


@EnvConfig.register_subclass("ebt_aloha")
@dataclass
class EBTAlohaEnv(_SimulatedEnv):
    """gym-aloha's tasks, `transfer_cube` and `insertion`: 14 joint positions and targets at 50 Hz."""

    MODULE: ClassVar[str] = "aloha"
    PREFIX: ClassVar[str] = "aloha"
    task: str | None = "transfer_cube"
    fps: int = 50


@EnvConfig.register_subclass("ebt_metaworld")
@dataclass
class EBTMetaworldEnv(_SimulatedEnv):
    """Meta-World at 80 Hz: `mt10`, `mt50` (the seed chooses the task) or one of its 50 tasks, such as `door_open`.

    LeRobot's own `metaworld` shows pictures and the hand; this one also the poses of objects and the goal.
    """

    MODULE: ClassVar[str] = "metaworld"
    PREFIX: ClassVar[str] = "metaworld"
    task: str | None = "mt10"
    fps: int = 80


@EnvConfig.register_subclass("robosuite")
@dataclass
class EBTRobosuiteEnv(_SimulatedEnv):
    """robosuite's Panda tasks at 20 Hz: Lift, Stack, PickPlaceCan, NutAssemblySquare, NutAssembly, PickPlace, Door,
    ToolHang.
    """

    MODULE: ClassVar[str] = "robosuite_tasks"
    PREFIX: ClassVar[str] = "robosuite"
    task: str | None = "Lift"
    fps: int = 20
