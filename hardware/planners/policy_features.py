"""Inputs and output that a policy declares."""

from __future__ import annotations

from lerobot.configs.types import PolicyFeature

from ebt_policy.errors import UserError
from ebt_policy.inference.runner import Runner


def policy_features(runner: Runner) -> tuple[dict[str, PolicyFeature], PolicyFeature]:
    """{name in the training data: input feature} and the action feature. Raises UserError where the config has none."""
    inputs, action = runner.needs, runner.config.action_feature
    if not inputs or action is None:
        raise UserError(
            "The policy's config.json declares no inputs or no action. Use the folder of a trained policy."
        )
    return inputs, action
