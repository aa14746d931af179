"""PushT (gym-pusht): push a T onto its target. Keypoints or pixels, 10 ticks a second, 300 ticks an episode.

Coverage is the covered share of the target; an episode is solved when it exceeds .95 once.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from ebt_policy.envs.disturbances.exposure import Exposure
from ebt_policy.envs.pusht_objects import PushTObjects
from ebt_policy.envs.spec import EnvSpec
from ebt_policy.errors import UserError

MAX_TICKS = 300
USUAL_TICKS = 130  # of people's demonstrations and of policies that succeed
FPS = 10
SUCCESS_COVERAGE = 0.95
IMAGE_SIZE = 96  # the size of the human demonstrations
VIDEO_SIZE = 256
EXPOSURE = Exposure(
    regions={"T": (100, 400, 100, 400)},
    workspace=(40, 472, 40, 472),
    targets=("goal",),
    shift=60,
    turn=0.5,
    beyond=30,
    noise=(8.0,) * 16,
    absolute=True,
    grippers=(),
    open_gripper=0,
    refused={
        "gripper": "it has none",
        "mass": "the pusher goes where it is told and the block stops at once, whatever it weighs",
    },
)


def make_pusht(observation_type: str, video_size: int = VIDEO_SIZE, max_ticks: int = MAX_TICKS) -> gym.Env:
    """A fresh PushT env. At module level and free of closures, so that worker processes can import it.

    observation_type: gym-pusht's `environment_state_agent_pos` (2 + 16 keypoint coordinates) or
    `pixels_agent_pos`.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame must not look for a display
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # pygame's, on each import
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
    # LeRobot asks every env for both; asking a worker process for what is not there ends it.
    env.task = "PushT"
    env.task_description = "Push the T-shaped block onto the target."
    env.disturbable = PushTObjects(env)
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
        make=lambda render: make_pusht(observation_type),  # draws when asked: nothing to set up
        to_policy=to_policy,
        success=success,
        coverage=coverage,
        success_coverage=SUCCESS_COVERAGE,
        solved_when=f"coverage exceeds {SUCCESS_COVERAGE} once",
        max_ticks=MAX_TICKS,
        usual_ticks=USUAL_TICKS,
        fps=FPS,
        exposure=EXPOSURE,
        hold=lambda state, _: state,  # actions are targets of the agent's position
    )


SPECS = {
    "pusht_keypoints": _spec("pusht_keypoints", "environment_state_agent_pos"),
    "pusht_pixels": _spec("pusht_pixels", "pixels_agent_pos"),
}
