"""From a recipe to the policy's config: its own defaults, or those of the checkpoint that is fine-tuned."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import draccus
from draccus.utils import DecodingError, ParsingError
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION
from lerobot.utils.import_utils import register_third_party_plugins

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.errors import UserError
from ebt_policy.inference.checkpoint_features import fits
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.suggestions import did_you_mean
from ebt_policy.training.recipe import TrainRecipe

AUTO = "auto"  # policy.vision in a recipe: chosen by the device, see `settled_vision`

# Options that LeRobot's trainer reads from the policy, and ours from the recipe.
RECIPE_OPTIONS = {
    "optimizer_lr": "optimizer.lr",
    "optimizer_betas": "optimizer.betas",
    "optimizer_eps": "optimizer.eps",
    "optimizer_weight_decay": "optimizer.weight_decay",
    "optimizer_grad_clip_norm": "grad_clip",
    "scheduler_warmup_steps": "warmup_steps",
}


@functools.cache
def register_plugins() -> None:
    """Registers LeRobot's own policies and those that other packages add, ours among them. It searches all packages: once is enough."""
    import lerobot.policies  # noqa: F401

    register_third_party_plugins()


def policy_config(recipe: TrainRecipe, device: str) -> PreTrainedConfig:
    """The registered config that the recipe's `policy` describes.

    Options that the recipe does not give are the policy's defaults or, with `pretrained_path`, the checkpoint's. Entries
    that a mapping (normalization_mapping) leaves out are kept, because LeRobot does not normalise what is not listed.
    Raises UserError for unknown types and options, bad values, and a checkpoint that is missing or of another type.
    """
    register_plugins()
    known = PreTrainedConfig.get_known_choices()
    kind = recipe.policy["type"]
    if kind not in known:
        raise UserError(
            f"There is no policy type '{kind}'.{did_you_mean(kind, list(known))} Registered: {', '.join(sorted(known))}."
        )
    fields = {f.name: f for f in dataclasses.fields(known[kind])}
    for name in recipe.policy.keys() - {"type"}:
        if name not in fields:
            suggestion = did_you_mean(name, [*fields])
            option = next((RECIPE_OPTIONS[o] for o in RECIPE_OPTIONS if f"'{o}'" in suggestion), None)
            recipe_hint = f" In a recipe: --set {option}=..." if option else ""
            raise UserError(
                f"Policy '{kind}' has no option '{name}'.{suggestion}{recipe_hint} See `{known[kind].__name__}`."
            )
        if name in RECIPE_OPTIONS:
            raise UserError(
                f"policy.{name} is for `lerobot-train`; here set {RECIPE_OPTIONS[name]} instead: --set "
                f"{RECIPE_OPTIONS[name]}={recipe.policy[name]}"
            )
    path = pretrained_path(recipe)
    if path is None:
        base = {
            name: default
            for name, f in fields.items()
            if f.default_factory is not dataclasses.MISSING
            and isinstance(default := draccus.encode(f.default_factory()), dict)
        }
    else:
        base = _checkpoint_options(path, kind)
    policy = settled_vision(recipe, device).policy
    given = {name: value for name, value in policy.items() if name not in ("type", "pretrained_path")}
    options = base | {name: _merged(base.get(name), value) for name, value in given.items()}
    with user_errors("Policy"):
        config: PreTrainedConfig = draccus.decode(
            PreTrainedConfig, {"push_to_hub": False} | options | {"type": kind, "device": device}
        )
    config.pretrained_path = path
    return config


def settled_vision(recipe: TrainRecipe, device: str, before: TrainRecipe | None = None) -> TrainRecipe:
    """The recipe with a camera encoder in place of policy.vision=auto.

    frozen on a CPU, resnet18 on an accelerator; what the run had `before`, where it is resumed; that of the checkpoint, where
    one is fine-tuned.
    """
    if recipe.policy.get("vision") != AUTO:
        return recipe
    others = {name: value for name, value in recipe.policy.items() if name != "vision"}
    chosen: dict[str, Any] = {"vision": "frozen" if device == "cpu" else "resnet18"}
    if before is not None and before.policy.get("vision"):
        chosen = {"vision": before.policy["vision"]}
    elif recipe.policy.get("pretrained_path"):
        chosen = {}
    return dataclasses.replace(recipe, policy=others | chosen)


def pretrained_path(recipe: TrainRecipe) -> Path | None:
    """Folder of the checkpoint to fine-tune, None where the training starts from nothing.

    Raises UserError where policy.pretrained_path holds no policy.
    """
    given = recipe.policy.get("pretrained_path")
    if not given:
        return None
    try:
        return find_checkpoint(str(given))
    except UserError as error:
        raise UserError(f"policy.pretrained_path: {error}") from error


def changed_options(recipe: TrainRecipe, config: PreTrainedConfig) -> list[str]:
    """ "width 176 -> 256" for each option in which the recipe differs from the checkpoint that it fine-tunes."""
    if config.pretrained_path is None:
        return []
    before, now = _checkpoint_options(Path(config.pretrained_path), config.type), draccus.encode(config)
    return [
        f"{name} {before.get(name)} -> {now[name]}"
        for name in recipe.policy
        if name not in ("type", "pretrained_path") and before.get(name) != now.get(name)
    ]


def match_features(
    config: PreTrainedConfig, provided: Mapping[str, PolicyFeature], rename_map: Mapping[str, str]
) -> dict[str, str]:
    """Fine-tuning: policy's input -> the dataset's observation for it.

    provided: the dataset's features as a policy would have them. rename_map: dataset's name -> policy's name; it counts where the
    dataset has the policy's name too. Sets the sizes of cameras in `config` to the dataset's. Raises UserError for inputs that
    the dataset does not provide (with a rename map to try), for vectors of another size, for pictures of another size that our
    policy would not resize, for names in the map that do not exist, and for two names of one input.
    """
    expected = config.input_features or {}
    for old, new in rename_map.items():
        for name, there, whose in ((old, provided, "The dataset"), (new, expected, "The policy")):
            if name not in there:
                raise UserError(
                    f"dataset.rename_map: {whose} has no '{name}'.{did_you_mean(name, list(there))} It has: "
                    f"{', '.join(there)}."
                )
    for new, count in Counter(rename_map.values()).items():
        if count > 1:
            both = ", ".join(old for old in rename_map if rename_map[old] == new)
            raise UserError(f"dataset.rename_map gives '{new}' to {both}. Keep one of them.")
    renamed = {name: name for name in provided if name not in rename_map}
    renamed |= {new: old for old, new in rename_map.items()}
    missing = [name for name in expected if name not in renamed]
    if missing:
        used = {renamed[name] for name in expected if name in renamed}
        free = [name for name in provided if name not in used]
        raise UserError(
            f"The checkpoint takes {', '.join(expected)}; the dataset does not provide {', '.join(missing)} "
            f"(it also has: {', '.join(n for n in free if n != ACTION) or 'nothing else'})."
            + _suggested_map(missing, free, expected, provided, rename_map)
        )
    sources = {name: renamed[name] for name in expected}
    pairs = [(name, feature, provided[sources[name]]) for name, feature in expected.items()]
    if config.action_feature is not None and ACTION in provided:
        pairs.append((ACTION, config.action_feature, provided[ACTION]))
    for name, wanted, found in pairs:
        wanted_shape, found_shape = tuple(wanted.shape), tuple(found.shape)
        visual = wanted.type is FeatureType.VISUAL
        if (wanted_shape[:1] != found_shape[:1]) if visual else (wanted_shape != found_shape):
            raise UserError(
                f"{name}: the checkpoint has the shape {wanted_shape}, the dataset {found_shape}. Fine-tune on data of "
                "the same robot, or train a new policy."
            )
        if visual and isinstance(config, ChunkPolicyConfig):
            _check_picture(name, wanted_shape, found_shape, config.resize_shape)
        if visual and config.input_features is not None:
            config.input_features[name] = PolicyFeature(wanted.type, found_shape)
    return sources


def renaming(sources: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The rename map of the preprocessor: dataset's name -> policy's name, where they differ.

    sources: policy's input -> dataset's name. names: all that the dataset has. One that lost its name to another is moved out of
    the way, because in LeRobot's step the later of the two would win.
    """
    renamed = {source: name for name, source in sources.items() if source != name}
    lost = [name for name in renamed.values() if name in names and name not in renamed]
    return renamed | {name: f"{name}.unused" for name in lost}


def _check_picture(
    name: str, wanted: tuple[int, ...], found: tuple[int, ...], resize_shape: tuple[int, int] | None
) -> None:
    """Raises UserError where the dataset's pictures (C, H, W) have another size than the checkpoint's, and are not resized."""
    if fits(wanted, found, resize_shape):
        return
    smaller = any(there < here for here, there in zip(wanted[1:], found[1:], strict=True))
    remedy = (
        "Record pictures of at least that size"
        if smaller
        else f"Make them smaller: --set policy.resize_shape='[{wanted[1]}, {wanted[2]}]'"
    )
    raise UserError(
        f"{name}: the checkpoint was trained on pictures (channels, height, width) of {wanted} and resizes none; the dataset has "
        f"{found}. {remedy}, or train a new policy."
    )


def _suggested_map(
    missing: list[str],
    free: list[str],
    expected: Mapping[str, PolicyFeature],
    provided: Mapping[str, PolicyFeature],
    rename_map: Mapping[str, str],
) -> str:
    """A rename map that gives each missing input the most similar free observation of its kind, as an option."""
    found = dict(rename_map)
    for name in missing:
        wanted = expected[name]
        fitting = [
            other
            for other in free
            if other not in found and provided[other].type is wanted.type
            if wanted.type is FeatureType.VISUAL or tuple(provided[other].shape) == tuple(wanted.shape)
        ]
        if not fitting:
            return " Record or choose a dataset with these features, or train a new policy."
        best = max(fitting, key=lambda other: SequenceMatcher(None, other, name).ratio())
        found[best] = name
    listed = ", ".join(f"{old}: {new}" for old, new in found.items())
    return f" If they are the same things by other names, say which: --set dataset.rename_map='{{{listed}}}'"


def _checkpoint_options(path: Path, kind: str) -> dict[str, Any]:
    """All options of a checkpoint's config, as draccus encodes them."""
    with user_errors(f"policy.pretrained_path '{path}'"):
        config = PreTrainedConfig.from_pretrained(path)
    if config.type != kind:
        raise UserError(
            f"policy.pretrained_path '{path}' is a policy of type '{config.type}', the recipe's is '{kind}'. Set "
            f"policy.type={config.type}, or leave pretrained_path out."
        )
    options = draccus.encode(config)
    return {name: value for name, value in options.items() if name not in ("type", "push_to_hub", "repo_id")}


def _merged(base: Any, value: Any) -> Any:
    return {**base, **value} if isinstance(base, dict) and isinstance(value, Mapping) else value


@contextmanager
def user_errors(what: str) -> Iterator[None]:
    """LeRobot's checks of a config already speak to the user, but as ValueError: raise them as UserError."""
    try:
        yield
    except (DecodingError, ValueError) as error:
        raise UserError(f"{what}: {error}") from error
    except ParsingError as error:  # its cause is what the config's __post_init__ objects to
        raise UserError(f"{what}: {error.__cause__ or error}") from error
