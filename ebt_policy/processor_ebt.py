"""Pre- and post-processors: LeRobot's default steps, so that its commands can override each of them."""

from typing import Any

from lerobot.processor.factory import make_default_pre_post_processors

from ebt_policy.configuration_chunk import ChunkPolicyConfig


def make_ebt_pre_post_processors(config: ChunkPolicyConfig, dataset_stats: dict[str, Any] | None = None):
    """Normalises what the policy sees and un-normalises what it does; returns (preprocessor, postprocessor)."""
    return make_default_pre_post_processors(config, dataset_stats)
