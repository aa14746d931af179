"""Checks of the numbers in a dataset's tables: values, units, statistics."""

from collections.abc import Iterator

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from ebt_policy.data.doctor.findings import Finding
from ebt_policy.data.doctor.frames import Frames
from ebt_policy.data.feature_names import feature_names

EXCURSION = 3.0  # in widths of the range that holds 98 % of a dimension's values, beyond that range
UNIT_RATIO = 20.0  # between action and state ranges; degrees against radians is 57
NEARLY_CONSTANT = (
    1e-4  # range, in the feature's units and as a part of its size: below it lies noise of the sensor
)


def not_finite(frames: Frames) -> Iterator[Finding]:
    remedy = "Leave these episodes out, or fill the gaps and recompute the statistics."
    for key, values in frames.columns.items():
        if not np.issubdtype(values.dtype, np.floating):
            continue
        for word, bad in (("NaN", np.isnan(values)), ("infinite", np.isinf(values))):
            if bad.any():
                episode, frame, count = frames.first(bad.any(1))
                which = frames.name(key, int(np.argmax(bad.any(0))))
                yield Finding("error", key, episode, frame, f"{which} is {word} ({count}).", remedy)


def constant(frames: Frames) -> Iterator[Finding]:
    """Dimensions that do not move, or only by what looks like noise of the sensor."""
    for key, values in frames.features():
        finite = values[np.isfinite(values).all(1)].astype(np.float64)
        if not len(finite):
            continue
        low, high = finite.min(0), finite.max(0)
        width, size = high - low, np.maximum(1.0, np.abs(finite).max(0))
        for index in np.flatnonzero(width < NEARLY_CONSTANT * size):
            name = frames.name(key, int(index))
            if width[index] == 0:
                message = f"{name} is {low[index]:g} in every frame."
                remedy = "Nothing can be learnt from it. Check the sensor or motor, or drop it."
            else:
                message = f"{name} is nearly constant: {low[index]:.8g} to {high[index]:.8g}."
                remedy = (
                    "Normalised to its range, this is noise that the policy would learn from. Check the sensor or "
                    "motor, or drop it."
                )
            yield Finding("warning", key, None, None, message, remedy)


def excursions(frames: Frames) -> Iterator[Finding]:
    """Values far outside the range that nearly all frames share: a spike sets the scale of normalisation."""
    remedy = "Watch this episode: a sensor glitch or a crash? Leave it out if so."
    for key, values in frames.features():
        low, high = _usual_range(values)
        width = high - low
        bad = (
            (width > 0) & (np.maximum(values - high, low - values) > EXCURSION * width) & np.isfinite(values)
        )
        for episode in np.unique(frames.episode[bad.any(1)]):
            row, index = np.argwhere(bad & (frames.episode == episode)[:, None])[0]
            message = (
                f"{frames.name(key, int(index))} is {values[row, index]:g}; 98 % of all values "
                f"lie in {low[index]:g} to {high[index]:g}."
            )
            yield Finding("warning", key, int(episode), int(frames.frame[row]), message, remedy)


def _usual_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1st and 99th percentile of each dimension, (D,) and (D,), over the frames that are finite."""
    finite = values[np.isfinite(values).all(1)]
    if not len(finite):
        return np.zeros(values.shape[1]), np.zeros(values.shape[1])
    low, high = np.quantile(finite, [0.01, 0.99], axis=0)
    return low, high


def units(frames: Frames) -> Iterator[Finding]:
    """Actions that are positions should move through the range that the state of the same joint moves through."""
    state, action = frames.columns.get(OBS_STATE), frames.columns.get(ACTION)
    if state is None or action is None:
        return
    pairs = _same_joints(frames)
    if not pairs:
        return
    remedy = "Right if actions are changes or velocities; if they are positions, units or order differ."
    of_state, of_action = (list(indices) for indices in zip(*pairs, strict=True))
    (low_s, high_s), (low_a, high_a) = _usual_range(state[:, of_state]), _usual_range(action[:, of_action])
    narrow, wide = np.minimum(high_a - low_a, high_s - low_s), np.maximum(high_a - low_a, high_s - low_s)
    apart = (low_a > high_s) | (low_s > high_a)
    for pair in np.flatnonzero((narrow > 0) & (apart | (wide > UNIT_RATIO * narrow))):
        message = (
            f"{frames.name(ACTION, of_action[pair])} spans {low_a[pair]:g} to {high_a[pair]:g}, {OBS_STATE} "
            f"{low_s[pair]:g} to {high_s[pair]:g}."
        )
        yield Finding("warning", ACTION, None, None, message, remedy)


def joint_names(frames: Frames) -> Iterator[Finding]:
    """State and action of as many joints should name the same joints in the same order."""
    state, action = (feature_names(frames.meta.features, key) for key in (OBS_STATE, ACTION))
    if {OBS_STATE, ACTION} - frames.columns.keys() or not state or not action:
        return
    if len(state) != len(action) or state == action:
        return
    only_state, only_action = set(state) - set(action), set(action) - set(state)
    if only_state:
        message = (
            f"The action names {_listed(only_action)}, the state in their place {_listed(only_state)}. Ranges are "
            "compared only for joints of the same name."
        )
        remedy = (
            "Right if they are different quantities; if they are the same joints, give them the same names."
        )
    else:
        message = f"The state names the action's joints in another order: {_listed(state)}."
        remedy = "Training is not harmed, but write both in the same order: other programs go by position."
    yield Finding("warning", ACTION, None, None, message, remedy)


def _listed(names: set[str] | list[str]) -> str:
    ordered = list(names) if isinstance(names, list) else sorted(names)
    return ", ".join(ordered[:6]) + (f" and {len(ordered) - 6} more" if len(ordered) > 6 else "")


def _same_joints(frames: Frames) -> list[tuple[int, int]]:
    """(dimension of the state, dimension of the action) of the same joint: by name where both have names."""
    state, action = (feature_names(frames.meta.features, key) for key in (OBS_STATE, ACTION))
    if state and action:
        return [(state.index(name), j) for j, name in enumerate(action) if name in state]
    sizes = {frames.columns[key].shape[1] for key in (OBS_STATE, ACTION)}
    return [(i, i) for i in range(sizes.pop())] if len(sizes) == 1 else []


def statistics(frames: Frames) -> Iterator[Finding]:
    """Recorded statistics that do not cover the data: LeRobot's own commands normalise by them."""
    remedy = "Out of date. `ebt-policy train` computes its own; for LeRobot's commands recompute them."
    for key, values in frames.features():
        stats = (frames.meta.stats or {}).get(key)
        if stats is None or np.size(stats["min"]) != values.shape[1]:
            continue
        low, high = np.ravel(stats["min"]), np.ravel(stats["max"])
        slack = 1e-4 * (high - low) + 1e-6 * np.abs(high) + 1e-6
        bad = np.isfinite(values) & ((values < low - slack) | (values > high + slack))
        if bad.any():
            episode, frame, count = frames.first(bad.any(1))
            index = int(np.argmax(bad.any(0)))
            message = (
                f"{frames.name(key, index)} leaves the range in meta/stats.json, {low[index]:g} "
                f"to {high[index]:g} ({count})."
            )
            yield Finding("warning", key, episode, frame, message, remedy)
