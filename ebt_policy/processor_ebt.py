"""Pre- and post-processors: LeRobot's default steps, so that its commands can override each of them by name.

A policy with an environment state gets one step more, `SplitStateProcessorStep`, and one that is told its task another,
`TaskProcessorStep`. The statistics differ: a dimension that hardly moves in the data gets a minimum range. Without it LeRobot divides by
the tiny range, or by 1e-8: half a millimetre off in use, and the network sees that dimension alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor.batch_processor import AddBatchDimensionProcessorStep
from lerobot.processor.factory import make_default_pre_post_processors
from lerobot.processor.normalize_processor import _NormalizationMixin  # of both normaliser steps
from lerobot.processor.pipeline import PolicyProcessorPipeline
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.data.split_state import SplitStateProcessorStep
from ebt_policy.language.task_step import TaskProcessorStep

# Units of the data. Diffusion Policy's normaliser has the same threshold (range_eps of LinearNormalizer, arXiv 2303.04137).
MIN_RANGE = 1e-4
MIN_RELATIVE_RANGE = 1e-5  # of the value: float32 resolves 1e-7 of it
UNIT_RANGE, UNIT_STD = (
    2.0,
    1.0,
)  # where all dimensions of an observation are constant: left at their own scale

Stats = Mapping[str, Mapping[str, Any]]
_BOUNDS = {
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}


def make_ebt_pre_post_processors(
    config: ChunkPolicyConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Preprocessor (normalises observations and actions) and postprocessor (un-normalises actions).

    dataset_stats: LeRobot's, {feature: {statistic: values}}. Narrow dimensions are widened, see `with_minimum_range`.
    """
    if dataset_stats is not None:
        features = {**(config.input_features or {}), **(config.output_features or {})}
        modes = {FeatureType(name): NormalizationMode(m) for name, m in config.normalization_mapping.items()}
        dataset_stats = with_minimum_range(dataset_stats, features, modes)
    preprocessor, postprocessor = make_default_pre_post_processors(config, dataset_stats)
    inputs = config.input_features or {}
    if OBS_STATE in inputs and OBS_ENV_STATE in inputs:
        sizes = inputs[OBS_STATE].shape[-1], inputs[OBS_ENV_STATE].shape[-1]
        preprocessor.steps = [SplitStateProcessorStep(*sizes), *preprocessor.steps]
    if config.task_sentences and config.task_encoder:
        steps = list(preprocessor.steps)
        batched = next(i for i, step in enumerate(steps) if isinstance(step, AddBatchDimensionProcessorStep))
        steps.insert(batched + 1, TaskProcessorStep(config.task_encoder, config.task_sentences))
        preprocessor.steps = steps
    return preprocessor, postprocessor


def widen_loaded(*pipelines: PolicyProcessorPipeline) -> None:
    """Gives loaded processors, which an earlier version may have saved, the minimum range. Changes them in place."""
    for pipeline in pipelines:
        for step in pipeline.steps:
            if isinstance(step, _NormalizationMixin):
                step.stats = with_minimum_range(step.stats or {}, step.features, step.norm_map)
                step.to(device=step.device)


def with_minimum_range(
    stats: Stats,
    features: Mapping[str, PolicyFeature],
    modes: Mapping[FeatureType, NormalizationMode],
) -> dict[str, dict[str, Any]]:
    """The same statistics, with a minimum range (or standard deviation) in each dimension.

    A narrow dimension is one below MIN_RANGE or MIN_RELATIVE_RANGE. In an observation it gets the widest range among the
    dimensions of its feature, so what it does in use counts as one input among others. In an action it gets the smallest
    range allowed, so that un-normalised actions stay where the data were. For quantiles, the range from min to max is
    tried first: a gripper that is open for 1 % of the time is no narrow dimension.
    Constant values are normalised to the same number as before (-1, or 0 with MEAN_STD) and other narrow ones to about 0,
    so a policy that was trained without the minimum range still works. The bounds of the data before the change are kept as
    `data_min` and `data_max`, where they differ.
    """
    found = {}
    for name, values in stats.items():
        feature = features.get(name)
        mode = modes.get(feature.type) if feature is not None else None
        found[name] = dict(values)
        if feature is not None and mode is not None and mode != NormalizationMode.IDENTITY:
            found[name] |= _widened(values, mode, feature.type == FeatureType.ACTION)
    return found


def _widened(values: Mapping[str, Any], mode: NormalizationMode, is_action: bool) -> dict[str, np.ndarray]:
    """The statistics of one feature that change; empty where no dimension is narrow."""
    if mode == NormalizationMode.MEAN_STD:
        if "std" not in values or "mean" not in values:
            return {}
        std, least = _array(values["std"]), _least(_array(values["mean"]))
        narrow = std < least
        if not narrow.any():
            return {}
        widest = UNIT_STD if narrow.all() else std.max()
        return {"std": np.where(narrow, least if is_action else widest, std)}
    lower, upper = _BOUNDS[mode]
    if lower not in values or upper not in values:
        return {}
    low, high = _array(values[lower]), _array(values[upper])
    centre = (low + high) / 2
    least, extent = _least(centre), high - low
    narrow = extent < least
    if not narrow.any():
        return {}
    widest = UNIT_RANGE if narrow.all() else extent.max()
    target = np.where(narrow, least if is_action else widest, extent)
    if mode != NormalizationMode.MIN_MAX and "min" in values and "max" in values:
        whole = _array(values["max"]) - _array(values["min"])
        target = np.where(narrow & (whole >= least), whole, target)
    # Where the constant value was normalised to -1, it still is.
    begin = np.where(extent == 0, low, centre - target / 2)
    changed = {lower: np.where(narrow, begin, low), upper: np.where(narrow, begin + target, high)}
    if mode == NormalizationMode.MIN_MAX and "data_min" not in values:
        changed |= {"data_min": low, "data_max": high}
    return changed


def _array(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


def _least(centre: np.ndarray) -> np.ndarray:
    return np.maximum(MIN_RANGE, MIN_RELATIVE_RANGE * np.abs(centre))
