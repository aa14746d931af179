"""EnvSpec: everything that a rollout needs to know of an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import gymnasium as gym

    from ebt_policy.envs.disturbance_spec import DisturbanceSpec

# (observation.state (S,), last action (A,) or None before the first) -> the action (A,) that keeps the robot in place
Hold = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class EnvSpec:
    """One environment. Two resets with the same seed give the same episode.

    make(render): a new gymnasium env; render=True prepares it for `env.render()` -> uint8 (H, W, 3).
    to_policy(observation): an observation under LeRobot's names, without batch dimension, float32; images (C, H, W) in 0..1.
    success(info): whether the info of `step` reports success. coverage(info): the task's graded score in 0..1.
    success_coverage: the coverage above which an episode counts as solved; the graded reward saturates there.
    solved_when: the success rule in words. max_ticks: time limit in control periods. usual_ticks: length of a usual
    successful episode. fps: control periods per second. disturbances: those that are possible, and their sizes.
    hold(state, last_action): the action (A,) that keeps the robot in place, from observation.state (S,) and the last
    action (A,), None before the first.
    cameras: names of the cameras that can be observed. make_with_cameras(names, (H, W)): a new env that observes them as
    `pixels` {name: uint8 (H, W, 3)}.
    tasks: sentences of the tasks that the env plays; of several, number seed % len(tasks) in an episode. names: of the entries of
    observations and actions, by LeRobot's names of these features.
    """

    name: str
    make: Callable[[bool], gym.Env]
    to_policy: Callable[[Any], dict[str, np.ndarray]]
    success: Callable[[dict[str, Any]], bool]
    coverage: Callable[[dict[str, Any]], float]
    success_coverage: float
    solved_when: str
    max_ticks: int
    usual_ticks: int
    fps: int
    disturbances: DisturbanceSpec
    hold: Hold
    cameras: tuple[str, ...] = ()
    make_with_cameras: Callable[[tuple[str, ...], tuple[int, int]], gym.Env] | None = None
    tasks: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
