"""The gymnasium env of all MuJoCo tasks. Its simulator is created at the first reset, in the process that uses it.

Legend: S state size, E size of the environment state, A action dimension, H/W image height, width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbance_spec import Disturbable, DisturbanceSpec
from ebt_policy.envs.rendering import ensure_rendering
from ebt_policy.envs.spec import EnvSpec, Hold


class Diverged(Exception):
    """The physics became unstable. The episode ends unsolved."""


@dataclass(frozen=True)
class Score:
    """Progress on the task: `graded` in 0..1, the share of its stages that are done, and whether it is solved."""

    graded: float
    solved: bool


class Simulator(Protocol):
    """A task in its simulator, driven by SimulatedEnv. SI units."""

    def reset(self, seed: int) -> None: ...

    def tick(self, action: NDArray[np.float64]) -> None:
        """Simulate one control period with `action` (A,). Raises Diverged if the physics becomes unstable."""
        ...

    def state(self) -> NDArray[np.float64]:
        """The robot's own state (S,)."""
        ...

    def environment_state(self) -> NDArray[np.float64]:
        """Poses of the objects (E,)."""
        ...

    def score(self) -> Score: ...

    def picture(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """A camera's picture (H, W, 3), uint8, first row on top."""
        ...

    @property
    def objects(self) -> Disturbable:
        """The objects, for disturbances."""
        ...

    def close(self) -> None:
        """Free the simulator's memory, which lies outside of Python's heap."""
        ...


@dataclass(frozen=True)
class TaskSpec:
    """The constants of a task.

    max_ticks: time limit. usual_ticks: length of a usual successful episode. state_size, environment_size: S and E.
    low, high: bounds of an action (A,). cameras: their names; the first is used for videos.
    """

    name: str
    description: str
    fps: int
    max_ticks: int
    usual_ticks: int
    state_size: int
    environment_size: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    cameras: tuple[str, ...]


class SimulatedEnv(gym.Env):
    """A simulated task as a gymnasium env.

    Observations: agent_pos (S,), environment_state (E,), and with `cameras` also pixels {name: (H, W, 3) uint8}. Nothing is
    rendered unless cameras are named or `render` is called. The episode ends with success when the task was solved for
    `hold_ticks` ticks in a row. Two resets with the same seed give the same episode.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        task: TaskSpec,
        make_simulator: Callable[[], Simulator],
        *,
        cameras: tuple[str, ...] = (),
        image_size: tuple[int, int] = (96, 96),
        video_size: tuple[int, int] = (240, 320),
        hold_ticks: int = 1,
    ) -> None:
        """make_simulator: called at the first reset, because an OpenGL context belongs to one process.

        image_size, video_size: (H, W) in pixels of observed cameras and of `render`.
        """
        self.task_spec, self._make_simulator = task, make_simulator
        self._cameras, self._image_size, self._video_size = cameras, image_size, video_size
        self.draws = True
        """Whether the next observations have their pictures. Off for ticks at which nobody looks: drawing takes most of the time."""
        self._hold_ticks, self._held = hold_ticks, 0
        self._simulator: Simulator | None = None
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": task.fps}
        # LeRobot asks every env for both.
        self.task, self.task_description = task.name, task.description
        self.action_space = gym.spaces.Box(
            np.array(task.low, np.float32), np.array(task.high, np.float32), dtype=np.float32
        )
        spaces: dict[str, gym.Space] = {
            "agent_pos": gym.spaces.Box(-np.inf, np.inf, (task.state_size,), np.float64),
            "environment_state": gym.spaces.Box(-np.inf, np.inf, (task.environment_size,), np.float64),
        }
        if cameras:
            picture = gym.spaces.Box(0, 255, (*image_size, 3), np.uint8)
            spaces["pixels"] = gym.spaces.Dict(dict.fromkeys(cameras, picture))
        self.observation_space = gym.spaces.Dict(spaces)

    @property
    def simulator(self) -> Simulator:
        """The simulator, for experts and tests; created at the first use."""
        if self._simulator is None:
            self._simulator = self._make_simulator()
        return self._simulator

    @property
    def disturbable(self) -> Disturbable:
        """The objects, for disturbances."""
        return self.simulator.objects

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self._held = 0
        self.simulator.reset(seed)
        # Of a simulator of several tasks, the one that the seed has chosen.
        self.task_description = getattr(self.simulator, "sentence", self.task_spec.description)
        return self.get_obs(), {"is_success": False, "score": self.simulator.score().graded}

    def step(self, action: NDArray) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        try:
            self.simulator.tick(np.asarray(action, np.float64))
        except Diverged:
            return self._last, 0.0, True, False, {"is_success": False, "score": 0.0, "diverged": True}
        score = self.simulator.score()
        self._held = self._held + 1 if score.solved else 0
        solved = self._held >= self._hold_ticks
        return self.get_obs(), score.graded, solved, False, {"is_success": solved, "score": score.graded}

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        return self.simulator.picture(self.task_spec.cameras[0], *self._video_size)

    def close(self) -> None:
        """Free the simulator; a later reset creates a new one."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def get_obs(self) -> dict[str, Any]:
        """The observation of the current state."""
        observation: dict[str, Any] = {
            "agent_pos": self.simulator.state(),
            "environment_state": self.simulator.environment_state(),
        }
        if self._cameras and self.draws:
            observation["pixels"] = {
                name: self.simulator.picture(name, *self._image_size) for name in self._cameras
            }
        self._last = observation
        return observation


class EnvOptions(TypedDict, total=False):
    """What all simulated envs can be asked for.

    cameras, image_size, hold_ticks: see SimulatedEnv. max_ticks: time limit (default: the task's). render: pictures will be asked for
    although no camera is observed.
    """

    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    hold_ticks: int
    max_ticks: int
    render: bool


def draws(options: EnvOptions) -> bool:
    """Whether pictures will be asked for."""
    return options.get("render", False) or bool(options.get("cameras"))


def make_env(
    task: TaskSpec, make_simulator: Callable[[], Simulator], module: str, options: EnvOptions
) -> gym.Env:
    """A new env with a time limit. module: that OpenGL and the simulator are needed of, where pictures are asked for.

    Raises UserError where it or OpenGL is missing.
    """
    if draws(options):
        ensure_rendering(module)
    env = SimulatedEnv(
        task,
        make_simulator,
        cameras=options.get("cameras", ()),
        image_size=options.get("image_size", (96, 96)),
        hold_ticks=options.get("hold_ticks", 1),
    )
    return gym.wrappers.TimeLimit(env, options.get("max_ticks", task.max_ticks))


def to_policy(observation: dict[str, Any]) -> dict[str, np.ndarray]:
    """observation.state (S,), observation.environment_state (E,), observation.images.* (3, H, W) in 0..1."""
    named = {
        "observation.state": observation["agent_pos"].astype(np.float32),
        "observation.environment_state": observation["environment_state"].astype(np.float32),
    }
    for name, pixels in observation.get("pixels", {}).items():
        named[f"observation.images.{name}"] = pixels.transpose(2, 0, 1).astype(np.float32) / 255
    return named


def simulated_spec(
    name: str, task: TaskSpec, make: Callable[..., gym.Env], disturbances: DisturbanceSpec, hold: Hold
) -> EnvSpec:
    """The EnvSpec of a task. make(cameras=(), image_size=(H, W), render=False) -> env."""
    return EnvSpec(
        name=name,
        make=lambda render: make(render=render),
        to_policy=to_policy,
        success=lambda info: bool(info["is_success"]),
        coverage=lambda info: float(info["score"]),
        success_coverage=1.0,
        solved_when="the simulator reports success; coverage is the share of the task's stages that were reached",
        max_ticks=task.max_ticks,
        usual_ticks=task.usual_ticks,
        fps=task.fps,
        disturbances=disturbances,
        hold=hold,
        cameras=task.cameras,
        make_with_cameras=lambda names, size: make(cameras=names, image_size=size),
    )
