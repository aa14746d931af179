"""From a recipe to the data: which features and episodes a policy trains on, examined and read into memory."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION
from rich.console import Console
from safetensors import safe_open
from torch import Tensor

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.data.doctor import examine, print_findings
from ebt_policy.data.episodes import choose_episodes, split_episodes
from ebt_policy.data.feature_maps import Maps
from ebt_policy.data.goal_alignment import find_goal_alignment
from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.symmetry import Symmetry, find_symmetry
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError
from ebt_policy.language.choose import add_sentences, condition_on, dataset_sentences
from ebt_policy.language.encoders import TABLE
from ebt_policy.language.task_step import listed
from ebt_policy.model.augmentation import View
from ebt_policy.model.vision_frozen import FrozenBackbone
from ebt_policy.training.corrections import Mixture, check_features, check_units, describe, located
from ebt_policy.training.described_data import describe_data
from ebt_policy.training.policy_setup import AUTO, renaming, user_errors
from ebt_policy.training.recipe import DatasetRecipe, TrainRecipe
from ebt_policy.training.trained_on import SPLIT_SEED


@dataclass(frozen=True)
class TrainingData:
    """What a policy is made from and trained on."""

    config: PreTrainedConfig  # with its features set
    windows: Windows
    held_out: Windows | None
    rename_map: dict[str, str]  # dataset's name -> policy's name, where they differ
    corrections: tuple[Windows, ...] = ()
    lineage: tuple[dict[str, Any], ...] = ()  # what run.json says of each dataset of corrections
    episodes: tuple[int, ...] | None = None  # that the recipe chose, held-out ones included; None: all

    def samples(self, recipe: TrainRecipe) -> Windows | Mixture:
        """What batches are drawn from."""
        if recipe.corrections is None:
            return self.windows
        return Mixture(self.windows, self.corrections, recipe.corrections.share)

    @property
    def statistics(self) -> dict[str, dict[str, Tensor]]:
        """For the normaliser, by the policy's names."""
        return {
            self.rename_map.get(name, name): {kind: torch.as_tensor(value) for kind, value in stats.items()}
            for name, stats in self.windows.stats.items()
        }


def prepare_data(recipe: TrainRecipe, device: torch.device) -> TrainingData:
    """Checks everything that can be checked before minutes of decoding, then reads the data.

    Raises UserError for a recipe that does not fit the dataset, and where the doctor finds an error in the part in use.
    """
    wanted, described = recipe.dataset, describe_data(recipe, device)
    config, meta, sources, episodes = described.config, described.meta, described.sources, described.episodes
    train_part, held_out_part = (
        [episodes[i] for i in part]
        for part in split_episodes(len(episodes), wanted.held_out_fraction, SPLIT_SEED)
    )
    if wanted_vision := _announcement(recipe, config, device):
        Console().print(wanted_vision, soft_wrap=True, highlight=False)
    modes = getattr(config, "normalization_mapping", {})
    if "ENV" not in modes and "STATE" in modes:  # LeRobot's own policies would get it unnormalised
        modes["ENV"] = modes["STATE"]
    features = [*sources.values(), ACTION]
    corrected = _corrections(recipe, meta, features)
    sentences = dataset_sentences(meta, episodes)
    for given in corrected:
        sentences += dataset_sentences(open_metadata(given.repo_id, given.root))
    _settle_sentences(config, list(dict.fromkeys(sentences)))
    _examine(wanted, features, episodes, held_out_part)
    for given in corrected:
        _examine(
            given,
            features,
            choose_episodes(open_metadata(given.repo_id, given.root).total_episodes, None),
            [],
        )
    with user_errors("Recipe: dataset.symmetry"):
        symmetry = find_symmetry(wanted.symmetry)
    with user_errors("Recipe: dataset.goal_alignment"):
        goal_alignment = find_goal_alignment(wanted.goal_alignment)

    maps = _maps(config, wanted.feature_variants, device)

    def windows(
        part: list[int] | None,
        symmetry: Symmetry | None,
        maps: Maps | None,
        given: DatasetRecipe = wanted,
    ) -> Windows:
        operators = given is not wanted
        return Windows.from_lerobot(
            given.repo_id,
            given.root,
            features=features,
            observation_delta_indices=config.observation_delta_indices,
            action_delta_indices=config.action_delta_indices,
            episodes=part,
            drop_n_last_frames=getattr(config, "drop_n_last_frames", 0),
            goal_alignment=None if operators else goal_alignment,  # a correction need not end on the goal
            symmetry=symmetry,
            device=device,
            image_cache_gb=wanted.image_cache_gb,
            resize_shape=getattr(config, "resize_shape", None),  # LeRobot's diffusion has it too
            maps=maps,
            tolerance_s=wanted.tolerance_s,
            operators=operators,
            unfinished=max(getattr(config, "n_action_steps", 1) - 1, 0),
        )

    plain_maps = dataclasses.replace(maps, variants=1) if maps else None
    shown = windows(train_part, symmetry, maps)
    corrections = tuple(windows(None, symmetry, maps, given) for given in corrected)
    for given, one in zip(corrected, corrections, strict=True):
        check_units(shown.stats, one.stats, given.repo_id)
    names = recipe.corrections.datasets if recipe.corrections else ()
    return TrainingData(
        config=config,
        windows=shown,
        held_out=windows(held_out_part, None, plain_maps) if held_out_part else None,
        rename_map=renaming(sources, meta.features),
        corrections=corrections,
        lineage=tuple(describe(name, one) for name, one in zip(names, corrections, strict=True)),
        episodes=tuple(episodes) if len(episodes) < meta.total_episodes else wanted.episodes,
    )


def _corrections(
    recipe: TrainRecipe, demonstrations: LeRobotDatasetMetadata, features: list[str]
) -> list[DatasetRecipe]:
    """The datasets of corrections. Raises UserError for one that does not fit the demonstrations."""
    if recipe.corrections is None:
        return []
    found = []
    for name in recipe.corrections.datasets:
        repo_id, root = located(name)
        check_features(demonstrations, open_metadata(repo_id, root), features)
        found.append(DatasetRecipe(repo_id, root, tolerance_s=recipe.dataset.tolerance_s))
    return found


def _settle_sentences(config: PreTrainedConfig, sentences: list[str]) -> None:
    """Whether and how the policy is told its task, and a line where that is not what a user may expect."""
    if not isinstance(config, ChunkPolicyConfig):
        return
    if config.pretrained_path is None:
        condition_on(config, sentences)
        text = f"{len(sentences)} tasks, told by their sentences (task_encoder={config.task_encoder})"
        if config.task_encoder == TABLE:
            text += "; other sentences are refused: for those pip install 'lerobot_policy_ebt[language]'"
    else:
        new = add_sentences(config, sentences)
        text = f"{len(new)} new tasks: {listed(new)}" if new else ""
    if config.task_sentences is None:
        text = (
            f"{len(sentences)} tasks, and the policy is not told which: it learns a mixture of them"
            if len(sentences) > 1
            else ""
        )
    if text:
        Console().print(f"Tasks: {text}.", soft_wrap=True, highlight=False)


def _announcement(recipe: TrainRecipe, config: PreTrainedConfig, device: torch.device) -> str | None:
    """Which camera encoder was chosen, where the recipe leaves the choice to us and there is a camera."""
    if recipe.policy.get("vision") != AUTO or not config.image_features or config.pretrained_path is not None:
        return None
    chosen, reason = ("frozen", "CPU") if device.type == "cpu" else ("resnet18", "GPU")
    return f"Cameras: vision={chosen}, as this trains on a {reason} (--set policy.vision=small, frozen or resnet18 decides)."


def _maps(config: PreTrainedConfig, variants: int, device: torch.device) -> Maps | None:
    """What is cached of pictures for a policy with a frozen backbone: that of the checkpoint, where one is fine-tuned."""
    if not isinstance(config, ChunkPolicyConfig) or config.vision != "frozen":
        return None
    if not variants or not config.image_features:
        return None
    backbone = FrozenBackbone(config.frozen_backbone, pretrained=config.pretrained_path is None)
    if config.pretrained_path is not None:
        prefix = "camera_encoders.0.trunk."
        with safe_open(Path(config.pretrained_path) / "model.safetensors", "pt") as stored:
            backbone.load_state_dict(
                {key.split(prefix)[1]: stored.get_tensor(key) for key in stored.keys() if prefix in key}  # noqa: SIM118
            )
    return Maps(backbone.to(device), config.frozen_backbone, View.of(config), variants)


def _examine(wanted: DatasetRecipe, features: list[str], episodes: list[int], held_out: list[int]) -> None:
    """Prints what the doctor finds in the part that is used. Raises UserError where an error is among it."""
    examination = examine(
        wanted.repo_id,
        wanted.root,
        episodes=episodes,
        held_out=held_out,
        features=features,
        tolerance_s=wanted.tolerance_s,
        progress=True,
    )
    if examination.findings:
        print_findings(examination.findings)
    if errors := examination.errors:
        raise UserError(
            f"Dataset '{wanted.repo_id}' has {len(errors)} faults that training would fail on or learn; the first: "
            f"{errors[0].feature}: {errors[0].message} {errors[0].remedy}"
        )
