"""Recipes: what to train, on what, for how long. One frozen tree, read from YAML, that re-creates a run."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from ebt_policy.data.open_dataset import local_name
from ebt_policy.errors import UserError
from ebt_policy.suggestions import did_you_mean


@dataclass(frozen=True)
class DatasetRecipe:
    """A LeRobot dataset and the part of it to use."""

    repo_id: str  # on the Hub or in LeRobot's cache
    root: str | None = None  # a local folder instead of LeRobot's cache
    episodes: tuple[int, ...] | None = None  # None: all
    episodes_per_task: int | None = None  # of these, the first so many of each task; None: all
    observations: tuple[str, ...] | None = None  # names of observation features; None: all of them
    held_out_fraction: float = 0.05  # of the episodes, never trained on: their loss shows over-fitting
    symmetry: dict[str, Any] | str | None = None  # a name, or the fields of ebt_policy.data.symmetry.Symmetry
    # Move each demonstration so that it ends on the goal: a name, or the fields of GoalAlignment.
    goal_alignment: dict[str, Any] | str | None = None
    # 10^9 bytes of decoded pictures that may lie in memory; more are kept on disk (`ebt-policy cache`) and read from there.
    image_cache_gb: float = 4.0
    # With policy.vision=frozen: versions of each picture whose maps are computed once and kept on disk: the picture itself and
    # feature_variants - 1 augmented ones. 0: maps are computed anew for every batch.
    feature_variants: int = 4
    # Fields of LeRobot's ImageTransformsConfig, as its `--dataset.image_transforms`: {enable: true} changes brightness, contrast,
    # saturation, hue, sharpness and position of training pictures at random; `tfs` names other transforms of torchvision.
    image_transforms: dict[str, Any] = field(default_factory=dict)
    # How far, in seconds, a picture of a video may lie from its row's time stamp: raise it where time stamps jitter.
    tolerance_s: float = 1e-4
    # Fine-tuning: observation's name in the dataset -> its name in the policy of policy.pretrained_path.
    rename_map: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CorrectionsRecipe:
    """What an operator showed where a policy failed, to be learned together with the demonstrations (`ebt-policy improve`)."""

    datasets: tuple[str, ...]  # folders or repo ids; where they have a column `intervention`, only its frames
    # Of each batch. One half is the balance of intervention-weighted regression (Mandlekar et al., arXiv 2012.06733): few
    # corrections weigh as much as many demonstrations. Other shares have not been measured.
    share: float = 0.5

    def __post_init__(self) -> None:
        if not self.datasets:
            raise UserError("Recipe: corrections.datasets names no dataset.")
        if not 0 < self.share < 1:
            raise UserError(f"Recipe: corrections.share must be above 0 and below 1, found {self.share}.")


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW. Weight decay falls on matrices only: on gains and biases it only shrinks them."""

    lr: float = 1e-3  # at the end of the warm-up
    betas: tuple[float, float] = (0.9, 0.99)  # decay of the first and second moment
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 1e-2  # per step, times the learning rate


@dataclass(frozen=True)
class TrainRecipe:
    """Everything `train` needs. Times are in optimiser steps."""

    policy: dict[str, Any]  # "type" and the fields of the config that LeRobot registered under that type
    dataset: DatasetRecipe  # see below
    steps: int = 20_000  # optimiser steps; the schedule ends with them
    batch_size: int = 256  # over all processes
    # With policy.pretrained_path, whose normalisation is then kept.
    corrections: CorrectionsRecipe | None = None
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)  # see below
    warmup_steps: int = 500  # linear, then a cosine to zero
    grad_clip: float = 1.0  # on the norm over all parameters
    ema_decay: float = 0.999  # the average is what is evaluated, saved and shipped
    # Of the forward pass. auto: bf16, but fp32 on CPUs that emulate it: for cameras on those without AVX512_BF16.
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False  # torch.compile: slower start, faster steps
    seed: int = 0  # of the weights, the noise and the order of the data
    log_every: int = 50  # steps between lines of the log
    eval_every: int = 1_000  # steps between losses on held-out episodes
    checkpoint_every: int = 5_000  # steps between checkpoints
    threads: int | None = None  # of torch on the CPU; None: as they are
    device: str | None = None  # None: the accelerator where there is one
    tracker: Literal["wandb", "trackio"] | None = None  # where to log besides metrics.jsonl and TensorBoard

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("policy", bool(self.policy.get("type")), "a mapping with a 'type', for example {type: ebt}"),
            ("steps", self.steps > 0, "a positive number"),
            ("batch_size", self.batch_size > 0, "a positive number"),
            ("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)"),
            ("log_every", self.log_every > 0, "a positive number"),
            ("eval_every", self.eval_every > 0, "a positive number"),
            ("checkpoint_every", self.checkpoint_every > 0, "a positive number"),
        ):
            if not good:
                raise UserError(f"Recipe: {name} must be {expected}, found {getattr(self, name)!r}.")
        if self.corrections is not None and not self.policy.get("pretrained_path"):
            raise UserError("Recipe: corrections improve a policy: name its run as policy.pretrained_path.")
        if self.dataset.feature_variants < 0:
            raise UserError(
                f"Recipe: dataset.feature_variants must be 0 or more, found {self.dataset.feature_variants}."
            )
        if not 0 <= self.dataset.held_out_fraction < 1:
            raise UserError(
                f"Recipe: dataset.held_out_fraction must be in [0, 1), found {self.dataset.held_out_fraction}."
            )


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainRecipe:
    """Reads a recipe by the name of a shipped one (`pusht_keypoints`) or by the path of a YAML file.

    `overrides` maps dotted keys to values: {"optimizer.lr": 3e-4, "policy.width": "256"}; strings are read as YAML, a
    mapping replaces the whole branch. Another "policy.type" keeps the options that both policies have (observations,
    horizon, trunk), which makes a baseline matched. Raises UserError, with close matches, for an unknown name or key and
    for a value of the wrong type.
    """
    data = yaml.safe_load(_read(name_or_path))
    if not isinstance(data, dict):
        raise UserError(f"Recipe '{name_or_path}' is not a mapping of keys to values.")
    return overridden(data, overrides or {})


def overridden(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> TrainRecipe:
    """The recipe of a mapping with dotted keys replaced, as in `load_recipe`."""
    changed, values = copy.deepcopy(dict(data)), dict(overrides)
    if "policy.type" in values:
        _change_policy(changed, str(values.pop("policy.type")))
    for key, value in values.items():
        _set(changed, key, yaml.safe_load(value) if isinstance(value, str) else value)
    return decode_recipe(changed)


def decode_recipe(data: Mapping[str, Any]) -> TrainRecipe:
    """Mapping to recipe, with types checked. Raises UserError naming the key."""
    import draccus
    from draccus.utils import DecodingError

    for key in ("policy", "dataset"):
        if key not in data:
            raise UserError(f"Recipe: '{key}' is missing.")
    _check_keys(data, TrainRecipe, "")
    if not data["dataset"].get("repo_id"):
        if not data["dataset"].get("root"):
            raise UserError(
                "Recipe: name the dataset, for example with --set dataset.repo_id=lerobot/pusht_keypoints, or with --set "
                "dataset.root=FOLDER."
            )
        data = {**data, "dataset": {**data["dataset"], "repo_id": local_name(data["dataset"]["root"])}}
    try:
        return draccus.decode(TrainRecipe, dict(data))
    except DecodingError as error:
        raise UserError(f"Recipe: {error}") from error


def dump_recipe(recipe: TrainRecipe) -> str:
    """YAML that `load_recipe` reads back to an equal recipe."""
    import draccus

    return yaml.safe_dump(draccus.encode(recipe), sort_keys=False)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    files = resources.files("ebt_policy.configs").iterdir()
    return sorted(f.name[:-5] for f in files if f.name.endswith(".yaml") and not f.name.startswith("bench_"))


def _read(name_or_path: str | Path) -> str:
    path = Path(name_or_path)
    if path.is_file():
        return path.read_text()
    name = str(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"There is no recipe file '{name}'. Shipped recipes: {', '.join(recipe_names())}.")
    if name not in recipe_names():
        raise UserError(
            f"There is no recipe named '{name}'.{did_you_mean(name, recipe_names())} "
            f"Shipped recipes: {', '.join(recipe_names())}; or give the path of a YAML file."
        )
    return resources.files("ebt_policy.configs").joinpath(f"{name}.yaml").read_text()


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *branch, leaf = key.split(".")
    for part in branch:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise UserError(f"Recipe: '{key}' cannot be set, '{part}' is a single value.")
    data[leaf] = value


def _change_policy(data: dict[str, Any], kind: str) -> None:
    from lerobot.configs.policies import PreTrainedConfig

    import ebt_policy.registration  # noqa: F401

    config = PreTrainedConfig.get_known_choices().get(kind)  # an unknown one is named when the policy is made
    kept = {k: v for k, v in data.get("policy", {}).items() if config and k in config.__dataclass_fields__}
    resize, crop = kept.get("resize_shape"), kept.get("crop_shape")
    if config and "crop_ratio" in config.__dataclass_fields__ and resize and crop:
        # LeRobot's diffusion drops crop_shape where there is a resize_shape, and rounds their ratio's crop down.
        kept.setdefault("crop_ratio", min(1.0, (crop[0] + 0.5) / resize[0]))
    data["policy"] = kept | {"type": kind}


def _check_keys(data: Mapping[str, Any], cls: type, where: str) -> None:
    fields: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(cls)}
    for key, value in data.items():
        if key not in fields:
            raise UserError(
                f"Recipe: unknown key '{where}{key}'.{did_you_mean(str(key), list(fields))} "
                f"Known: {', '.join(fields)}."
            )
        if (key == "policy" or dataclasses.is_dataclass(fields[key])) and not isinstance(value, Mapping):
            raise UserError(f"Recipe: '{where}{key}' must be a mapping, found {value!r}.")
        if dataclasses.is_dataclass(fields[key]):
            _check_keys(value, fields[key], f"{where}{key}.")
