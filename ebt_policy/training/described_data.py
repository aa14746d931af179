"""From a recipe to a policy's config and the episodes to use, by the description of the dataset alone."""

from dataclasses import dataclass

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION
from lerobot.utils.feature_utils import dataset_to_policy_features

from ebt_policy.data.episodes import choose_episodes, first_of_each_task
from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.usable_features import choose_observations, observation_features, why_unusable
from ebt_policy.errors import UserError
from ebt_policy.language.choose import episode_sentences
from ebt_policy.training.policy_setup import match_features, policy_config, user_errors
from ebt_policy.training.recipe import DatasetRecipe, TrainRecipe


@dataclass(frozen=True)
class Described:
    """What a recipe says of a policy and its data, from the dataset's description alone. sources: policy's input -> dataset's name."""

    config: PreTrainedConfig  # with its features set
    meta: LeRobotDatasetMetadata
    sources: dict[str, str]
    episodes: list[int]  # those to use, held-out ones included


def describe_data(recipe: TrainRecipe, device: torch.device) -> Described:
    """Reads no episode. Raises UserError for a recipe that does not fit the dataset."""
    wanted, config = recipe.dataset, policy_config(recipe, device.type)
    meta = open_metadata(wanted.repo_id, wanted.root)
    episodes = choose_episodes(meta.total_episodes, wanted.episodes)
    if wanted.episodes_per_task is not None:
        episodes = first_of_each_task(episode_sentences(meta, episodes), wanted.episodes_per_task)
    sources = _set_features(config, meta, wanted)
    with user_errors("Policy"):
        config.validate_features()
    return Described(config, meta, sources, episodes)


def _set_features(
    config: PreTrainedConfig, meta: LeRobotDatasetMetadata, wanted: DatasetRecipe
) -> dict[str, str]:
    """Sets the config's features, and returns policy's input -> the dataset's observation for it."""
    if config.pretrained_path is None:
        if wanted.rename_map:
            raise UserError("dataset.rename_map is for fine-tuning: it needs policy.pretrained_path.")
        observations = choose_observations(meta, wanted.observations)
    elif wanted.observations:
        observations = choose_observations(meta, wanted.observations)
    else:  # the checkpoint says what it takes; what it does not take may be of any kind
        observations = [name for name in observation_features(meta) if why_unusable(meta, name) is None]
    usable = dataset_to_policy_features(
        {key: meta.features[key] for key in [*observations, ACTION] if key in meta.features}
    )
    if config.pretrained_path is None:
        config.input_features = {name: usable[name] for name in observations}
        sources = {name: name for name in observations}
    else:
        sources = match_features(config, usable, wanted.rename_map)
    config.output_features = _actions(usable)
    return sources


def _actions(features: dict[str, PolicyFeature]) -> dict[str, PolicyFeature]:
    return {name: feature for name, feature in features.items() if feature.type is FeatureType.ACTION}
