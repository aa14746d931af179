"""Simulated worlds by name, each behind the same small record. Nothing here knows a policy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.recovery import Hold

if TYPE_CHECKING:
    import gymnasium as gym

    from ebt_policy.envs.disturbances import Exposure

_MODULES = {  # name -> module with SPECS[name]
    "pusht_keypoints": "pusht",
    "pusht_pixels": "pusht",
    "aloha_transfer_cube": "aloha",
    "aloha_insertion": "aloha",
    "robosuite_lift": "robosuite_tasks",
    "robosuite_stack": "robosuite_tasks",
    "robosuite_pickplacecan": "robosuite_tasks",
    "robosuite_nutassemblysquare": "robosuite_tasks",
    "robosuite_nutassembly": "robosuite_tasks",
    "robosuite_pickplace": "robosuite_tasks",
    "robosuite_door": "robosuite_tasks",
    "robosuite_toolhang": "robosuite_tasks",
}


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


def environment(name: str) -> EnvSpec:
    """The environment called `name`; "NAME+KIND" and "NAME+KIND:STRENGTH" are disturbed (disturbances.py).

    Raises UserError for an unknown one.
    """
    name, plus, disturbance = name.partition("+")
    if name not in _MODULES:
        raise UserError(f"Unknown environment '{name}'. Choose one of: {', '.join(environments())}.")
    spec = importlib.import_module(f"{__name__}.{_MODULES[name]}").SPECS[name]
    if not plus:
        return spec
    from ebt_policy.envs.disturbances import disturbed

    return disturbed(spec, disturbance)


def environments() -> list[str]:
    """The names that `environment` accepts, without disturbances."""
    return sorted(_MODULES)
