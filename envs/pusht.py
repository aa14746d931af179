"""PushT (gym-pusht): push a T-shaped block onto its target. Keypoints or pictures, 10 Hz, at most 300 ticks.

Coverage is the share of the target that the block covers; an episode is solved when it exceeds .95 once.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from ebt_policy.envs.disturbance_spec import DisturbanceSpec
from ebt_policy.envs.pusht_objects import PushTObjects
from ebt_policy.envs.spec import EnvSpec
from ebt_policy.errors import UserError

MAX_TICKS = 300
USUAL_TICKS = 130  # length of human demonstrations, and of episodes that policies solve
FPS = 10
SUCCESS_COVERAGE = 0.95
IMAGE_SIZE = 96  # the size of the human demonstrations
VIDEO_SIZE = 256
DISTURBANCES = DisturbanceSpec(
    regions={"T": (100, 400, 100, 400)},
    workspace=(40, 472, 40, 472),
    targets=("goal",),
    shift=60,
    turn=0.5,
    start_margin=30,
    noise=(8.0,) * 16,
    absolute_actions=True,
    grippers=(),
    open_gripper=0,
    refused={
        "gripper": "it has no gripper",
        "mass": "pusher and block move the same whatever the mass",
    },
)


def make_pusht(observation_type: str, video_size: int = VIDEO_SIZE, max_ticks: int = MAX_TICKS) -> gym.Env:
    """A new PushT env. At module level, so that worker processes can import it.

    observation_type: gym-pusht's `environment_state_agent_pos` (2 + 16 keypoint coordinates) or
    `pixels_agent_pos`.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame needs no display
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # of pygame, at each import
            from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise UserError(f"PushT needs gym-pusht ({error}). Install it with: pip install gym-pusht") from error
    env: Any = PushTEnv(
        obs_type=observation_type,
        observation_width=IMAGE_SIZE,
        observation_height=IMAGE_SIZE,
        visualization_width=video_size,
        visualization_height=video_size,
    )
    # LeRobot reads both attributes; in a worker process a missing one would end the worker.
    env.task = "PushT"
    env.task_description = "Push the T-shaped block onto the target."
    env.disturbable = PushTObjects(env)
    env.simulator = env  # what an expert reads, as in the other envs
    return gym.wrappers.TimeLimit(env, max_ticks)


def to_policy(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """observation.state (2,), and observation.environment_state (16,) or observation.image (3, 96, 96) in
    0..1.
    """
    named: dict[str, np.ndarray] = {"observation.state": observation["agent_pos"].astype(np.float32)}
    if "environment_state" in observation:
        named["observation.environment_state"] = observation["environment_state"].astype(np.float32)
    if "pixels" in observation:
        named["observation.image"] = observation["pixels"].transpose(2, 0, 1).astype(np.float32) / 255
    return named


def success(info: dict[str, Any]) -> bool:
    return bool(info["is_success"])


def coverage(info: dict[str, Any]) -> float:
    return float(info["coverage"])


def _spec(name: str, observation_type: str) -> EnvSpec:
    return EnvSpec(
        name=name,
        make=lambda render: make_pusht(observation_type),  # rendering needs no preparation
        to_policy=to_policy,
        success=success,
        coverage=coverage,
        success_coverage=SUCCESS_COVERAGE,
        solved_when=f"coverage exceeds {SUCCESS_COVERAGE} once",
        max_ticks=MAX_TICKS,
        usual_ticks=USUAL_TICKS,
        fps=FPS,
        disturbances=DISTURBANCES,
        hold=lambda state, _: state,  # actions are target positions
    )


SPECS = {
    "pusht_keypoints": _spec("pusht_keypoints", "environment_state_agent_pos"),
    "pusht_pixels": _spec("pusht_pixels", "pixels_agent_pos"),
}
