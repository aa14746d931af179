"""Inputs and output that a policy's config declares."""

from __future__ import annotations

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import PolicyFeature

from ebt_policy.errors import UserError


def policy_features(config: PreTrainedConfig) -> tuple[dict[str, PolicyFeature], PolicyFeature]:
    """{name: input feature} and the action feature. Raises UserError where the config has none."""
    inputs, action = config.input_features, config.action_feature
    if not inputs or action is None:
        raise UserError(
            "The policy's config.json declares no inputs or no action. Use the folder of a trained policy."
        )
    return inputs, action
