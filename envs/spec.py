"""The record behind which every simulated task lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import gymnasium as gym

    from ebt_policy.envs.disturbances.exposure import Exposure

# How a robot holds still: (observation.state (S,), last action (A,) or None before the first) -> action (A,)
Hold = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class EnvSpec:
    """A task as a policy meets it. Two resets with one seed give the same episode.

    make(render): a fresh gymnasium env; render=True sets it up for `env.render()` -> uint8 (H, W, 3).
    to_policy(observation): LeRobot's names without batch dimension, float32; images (C, H, W) in 0..1.
    success(info), coverage(info): read from the info of `step`; coverage is the task's graded score in 0..1.
    solved_when: the rule of success, in words.
    success_coverage: the coverage above which the task counts as solved; the graded reward saturates there.
    max_ticks: length of an episode in control periods; usual_ticks: of a successful one; fps: control periods per
    second. exposure: the disturbances that are possible, and their sizes.
    hold(state, last_action): the action (A,) that keeps the robot where it is, from observation.state (S,) and the last
    command (A,), None before the first.
    cameras: names of those that can be asked for; make_with_cameras(names, (H, W)): a fresh env that observes them too,
    as `pixels` {name: uint8 (H, W, 3)}.
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
    exposure: Exposure
    hold: Hold
    cameras: tuple[str, ...] = ()
    make_with_cameras: Callable[[tuple[str, ...], tuple[int, int]], gym.Env] | None = None
