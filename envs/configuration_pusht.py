"""PushT for LeRobot's commands: `--env.type=ebt_pusht`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import gymnasium as gym
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGE, OBS_STATE

from ebt_policy.envs.disturbances.kinds import parse
from ebt_policy.envs.registry import environment, make_disturbed
from ebt_policy.envs.vector import make_vector
from ebt_policy.errors import UserError

_NAMES = {"environment_state_agent_pos": "pusht_keypoints", "pixels_agent_pos": "pusht_pixels"}


@EnvConfig.register_subclass("ebt_pusht")
@dataclass
class EBTPushTEnv(EnvConfig):
    """PushT with keypoints (obs_type `environment_state_agent_pos`) or pictures (`pixels_agent_pos`).

    disturbance: "KIND" or "KIND:STRENGTH", see envs/disturbances/kinds.py.
    """

    task: str | None = "PushT-v0"
    fps: int = 10
    episode_length: int = 300  # ticks
    obs_type: str = "environment_state_agent_pos"
    video_size: int = 256  # pixels, of rendered videos
    disturbance: str | None = None
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            "environment_state": OBS_ENV_STATE,
            "pixels": OBS_IMAGE,
        }
    )

    def __post_init__(self) -> None:
        observed = {
            "environment_state_agent_pos": {"environment_state": PolicyFeature(FeatureType.ENV, (16,))},
            "pixels_agent_pos": {"pixels": PolicyFeature(FeatureType.VISUAL, (96, 96, 3))},
        }
        if self.obs_type not in observed:
            raise ValueError(f"env.obs_type is '{self.obs_type}'; PushT offers {', '.join(observed)}.")
        if self.disturbance is not None:
            try:
                parse(environment(_NAMES[self.obs_type]), self.disturbance)
            except UserError as error:
                raise ValueError(f"env.disturbance is '{self.disturbance}'. {error}") from error
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (2,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (2,)),
            **observed[self.obs_type],
        }

    @property
    def gym_kwargs(self) -> dict:
        return {
            "observation_type": self.obs_type,
            "video_size": self.video_size,
            "max_ticks": self.episode_length,
        }

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """{type: {0: a vector of n_envs}}. use_async_envs: in worker processes."""
        from ebt_policy.envs.pusht import make_pusht  # imports the simulator

        factory = partial(make_pusht, **self.gym_kwargs)
        if self.disturbance is not None:
            factory = partial(make_disturbed, factory, _NAMES[self.obs_type], self.disturbance)
        return {self.type: {0: make_vector(factory, n_envs, use_async_envs)}}
