"""What the MuJoCo tasks share: one gymnasium env whose simulator is made where it is used.

Legend: S state size, E size of the environment state, A action dimension, H/W image height, width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbances.exposure import Disturbable, Exposure
from ebt_policy.envs.spec import EnvSpec, Hold


class Diverged(Exception):
    """The physics has blown up: what follows means nothing. The episode ends here, unsolved."""


@dataclass(frozen=True)
class Score:
    """How far the task is: `graded` in 0..1 (its share of stages done), `solved` for success."""

    graded: float
    solved: bool


class Simulator(Protocol):
    """A task in its simulator, as the env drives it. Everything in SI units."""

    def reset(self, seed: int) -> None: ...

    def tick(self, action: NDArray[np.float64]) -> None:
        """One control period under `action` (A,). Raises Diverged."""

    def state(self) -> NDArray[np.float64]:
        """(S,): what the robot feels of itself."""

    def environment_state(self) -> NDArray[np.float64]:
        """(E,): poses of the objects."""

    def score(self) -> Score: ...

    def picture(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """(H, W, 3), upright."""

    @property
    def objects(self) -> Disturbable:
        """What a disturbance may take hold of."""

    def close(self) -> None:
        """Gives its memory back at once: it lies outside Python's heap, so that nothing would ever hurry to collect it."""


@dataclass(frozen=True)
class Task:
    """A task's fixed facts. usual_ticks: of a successful episode. low, high (A,): bounds of an action; cameras: their
    names, the first is for videos.
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
    """Low-dimensional by default: nothing is drawn unless `cameras` are named or `render` is called.

    Observations: agent_pos (S,), environment_state (E,), and with cameras pixels {name: (H, W, 3) uint8}. An episode
    is solved when the task is for `hold_ticks` ticks in a row, and ends there. Two resets with one seed give the same
    episode, whatever happened in between.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        task: Task,
        make_simulator: Any,
        *,
        cameras: tuple[str, ...] = (),
        image_size: tuple[int, int] = (96, 96),
        video_size: tuple[int, int] = (240, 320),
        hold_ticks: int = 1,
    ) -> None:
        """make_simulator() -> Simulator, called at the first reset: OpenGL contexts belong to one process.

        image_size, video_size: (H, W) of observed cameras and of `render`.
        """
        self.facts, self._make_simulator = task, make_simulator
        self._cameras, self._image_size, self._video_size = cameras, image_size, video_size
        self._hold_ticks, self._held = hold_ticks, 0
        self._simulator: Simulator | None = None
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": task.fps}
        # LeRobot asks every env for both.
        self.task, self.task_description = task.name, task.description
        self.action_space = gym.spaces.Box(np.float32(task.low), np.float32(task.high), dtype=np.float32)
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
        """The task's simulator, for experts and tests."""
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
        return self.simulator.picture(self.facts.cameras[0], *self._video_size)

    def close(self) -> None:
        """Frees the simulator; a later reset makes another."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def get_obs(self) -> dict[str, Any]:
        """What is observed of the present state."""
        observation: dict[str, Any] = {
            "agent_pos": self.simulator.state(),
            "environment_state": self.simulator.environment_state(),
        }
        if self._cameras:
            observation["pixels"] = {
                name: self.simulator.picture(name, *self._image_size) for name in self._cameras
            }
        self._last = observation
        return observation


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
    name: str, task: Task, make: Callable[..., gym.Env], exposure: Exposure, hold: Hold
) -> EnvSpec:
    """The EnvSpec of a task; make(cameras=(), image_size=(H, W), render=False) -> env. hold: see EnvSpec."""
    return EnvSpec(
        name=name,
        make=lambda render: make(render=render),
        to_policy=to_policy,
        success=lambda info: bool(info["is_success"]),
        coverage=lambda info: float(info["score"]),
        success_coverage=1.0,
        solved_when="the simulator says so; coverage is the share of the task's stages reached",
        max_ticks=task.max_ticks,
        usual_ticks=task.usual_ticks,
        fps=task.fps,
        exposure=exposure,
        hold=hold,
        cameras=task.cameras,
        make_with_cameras=lambda names, size: make(cameras=names, image_size=size),
    )
