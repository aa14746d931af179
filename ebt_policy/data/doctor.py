"""Looks at a dataset before hours of training do: each finding says where it is and what to do about it."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.io_utils import load_nested_dataset
from lerobot.datasets.video_utils import decode_video_frames
from lerobot.utils.constants import ACTION, OBS_PREFIX, OBS_STATE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ebt_policy.data.feature_names import feature_names
from ebt_policy.data.images import BACKEND
from ebt_policy.data.source import fetch_missing, open_metadata

LENGTH_Z = 6.0  # robust z of the logarithm of an episode's length: a normal one gets there once in 10^9
EXCURSION = 3.0  # in widths of the range that holds 98 % of a dimension's values, beyond that range
UNIT_RATIO = 20.0  # between action and state ranges; degrees against radians is 57
TIME_TOLERANCE_S = 1e-4  # LeRobot's own, for finding a frame by its time stamp

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One fault. episode and frame: the first place it shows, None where it concerns all of them.

    An error makes training fail or learn nonsense; a warning deserves a look and may be right for this robot.
    """

    severity: Severity
    feature: str
    episode: int | None
    frame: int | None
    message: str
    remedy: str


@dataclass(frozen=True)
class Frames:
    """The numeric columns of a dataset: F frames, in runs of one episode."""

    meta: LeRobotDatasetMetadata
    columns: dict[str, np.ndarray]  # feature -> (F, D)
    episode: np.ndarray  # (F,)
    frame: np.ndarray  # (F,), number within its episode
    starts: np.ndarray  # (E,), first row of each run

    def features(self) -> Iterator[tuple[str, np.ndarray]]:
        """Observations and actions, what a policy sees."""
        return ((key, x) for key, x in self.columns.items() if key == ACTION or key.startswith(OBS_PREFIX))

    def first(self, bad: np.ndarray) -> tuple[int, int, str]:
        """Episode and frame of the first True in bad (F,), and how many there are, in words."""
        row, episodes = int(np.argmax(bad)), len(np.unique(self.episode[bad]))
        return int(self.episode[row]), int(self.frame[row]), f"{bad.sum()} frames in {episodes} episodes"


def doctor(
    repo_id: str,
    root: str | Path | None = None,
    *,
    episodes: Sequence[int] | None = None,
    held_out: Sequence[int] = (),
) -> list[Finding]:
    """All faults found, errors first. Of a video only the last picture is decoded.

    episodes: the ones to look at, None for all. held_out: those of them that are kept from training: copies
    among the others are an error. Raises UserError where there is no such dataset.
    """
    meta = open_metadata(repo_id, root)
    findings = list(_files(meta, range(meta.total_episodes) if episodes is None else episodes))
    if any((meta.root / "data").glob("*/*.parquet")):
        frames = _read(meta, episodes)
        for check in CHECKS:
            findings += check(frames)
        findings += _duplicates(frames, held_out)
    return sorted(findings, key=lambda finding: finding.severity)


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """A table of the findings, or one line where there are none."""
    console = console or Console()
    if not findings:
        console.print("[green]No faults found.[/green]")
        return
    table = Table("", "where", "what", "what to do", show_lines=True)
    for finding in findings:
        places = (("episode", finding.episode), ("frame", finding.frame))
        where = [finding.feature] + [f"{word} {number}" for word, number in places if number is not None]
        style = "red" if finding.severity == "error" else "yellow"
        # Text, not markup: a message may hold brackets.
        table.add_row(
            Text(finding.severity, style), Text("\n".join(where)), Text(finding.message), Text(finding.remedy)
        )
    console.print(table)
    errors = sum(finding.severity == "error" for finding in findings)
    console.print(f"{errors} errors, {len(findings) - errors} warnings")


def _read(meta: LeRobotDatasetMetadata, episodes: Sequence[int] | None) -> Frames:
    features = get_hf_features_from_features(meta.features)
    table = load_nested_dataset(meta.root / "data", features, None if episodes is None else list(episodes))
    numeric = [
        k for k, f in meta.features.items() if f["dtype"] not in ("video", "image", "string", "language")
    ]
    arrays = table.select_columns(numeric).with_format("numpy")[:]
    episode = arrays["episode_index"]
    return Frames(
        meta=meta,
        columns={key: np.asarray(values).reshape(len(episode), -1) for key, values in arrays.items()},
        episode=episode,
        frame=arrays["frame_index"],
        starts=np.flatnonzero(np.diff(episode, prepend=-1)),
    )


def _dimension(meta: LeRobotDatasetMetadata, key: str, index: int) -> str:
    names = feature_names(meta.features, key)
    return f"dimension {index} ({names[index]})" if names else f"dimension {index}"


def _files(meta: LeRobotDatasetMetadata, episodes: Sequence[int]) -> Iterator[Finding]:
    """Tables and videos that are not there, and videos that break off before their last episode ends."""
    absent = fetch_missing(meta, episodes, meta.camera_keys)
    again = "Copy the dataset again, or leave these episodes out."
    for path, (feature, episode) in absent.items():
        yield Finding("error", feature, episode, None, f"{meta.root / path} is missing.", again)
    ends: dict[tuple[str, Path], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for episode in episodes:
        for key in meta.video_keys:
            place = (key, meta.get_video_file_path(episode, key))
            ends[place] = max(ends[place], (meta.episodes[episode][f"videos/{key}/to_timestamp"], episode))
    for (key, path), (end, episode) in ends.items():
        if path in absent:
            continue
        try:
            decode_video_frames(meta.root / path, [end - 1 / meta.fps], 0.5 / meta.fps, BACKEND)
        except Exception as error:  # whatever the decoder raises, the file is of no use
            reason = str(error).splitlines()[0]
            message = f"{meta.root / path} has no picture at {end - 1 / meta.fps:.2f} s, its last: {reason}"
            yield Finding("error", key, episode, None, message, again)


def _not_finite(frames: Frames) -> Iterator[Finding]:
    remedy = "Leave these episodes out, or fill the gaps and recompute the statistics."
    for key, values in frames.columns.items():
        if not np.issubdtype(values.dtype, np.floating):
            continue
        for word, bad in (("NaN", np.isnan(values)), ("infinite", np.isinf(values))):
            if bad.any():
                episode, frame, count = frames.first(bad.any(1))
                which = _dimension(frames.meta, key, int(np.argmax(bad.any(0))))
                yield Finding("error", key, episode, frame, f"{which} is {word} ({count}).", remedy)


def _constant(frames: Frames) -> Iterator[Finding]:
    remedy = (
        "Nothing can be learnt from it, and normalisation blows up any later change. Drop it, or check the "
        "sensor or motor."
    )
    for key, values in frames.features():
        for index in np.flatnonzero((values == values[0]).all(0)):
            message = f"{_dimension(frames.meta, key, int(index))} is {values[0, index]:g} in every frame."
            yield Finding("warning", key, None, None, message, remedy)


def _time(frames: Frames) -> Iterator[Finding]:
    """Time stamps must advance by one period, frame numbers by one from zero."""
    inside = frames.episode[1:] == frames.episode[:-1]
    period, timestamps = 1 / frames.meta.fps, frames.columns["timestamp"][:, 0].astype(np.float64)
    step = np.diff(timestamps)
    rounding = 1e-6 * np.abs(timestamps[1:])  # they are stored in single precision
    bad = np.append(False, inside & (np.abs(step - period) > TIME_TOLERANCE_S + rounding))
    if bad.any():
        episode, frame, count = frames.first(bad)
        found = step[np.argmax(bad) - 1]
        message = f"{found:.4f} s after the frame before, expected {period:.4f} s ({count})."
        remedy = "Frames are missing or came late: leave these episodes out, or resample them to the fps."
        yield Finding("error", "timestamp", episode, frame, message, remedy)
    bad = np.append(False, inside & (np.diff(frames.frame) != 1))
    bad[frames.starts] = frames.frame[frames.starts] != 0
    if bad.any():
        episode, frame, count = frames.first(bad)
        message = f"Frame numbers do not count up from 0 ({count})."
        remedy = "Rows are missing or out of order: write the dataset again."
        yield Finding("error", "frame_index", episode, frame, message, remedy)


def _lengths(frames: Frames) -> Iterator[Finding]:
    """Rows against metadata, and lengths far from the others'."""
    lengths = np.diff(frames.starts, append=len(frames.episode))
    episodes = frames.episode[frames.starts]
    recorded = dict(zip(frames.meta.episodes["episode_index"], frames.meta.episodes["length"], strict=True))
    for episode, length in zip(episodes.tolist(), lengths.tolist(), strict=True):
        if recorded.get(episode) != length:
            message = f"{length} rows, the metadata says {recorded.get(episode)}."
            yield Finding(
                "error", "data", episode, None, message, "Write the dataset again, or copy it again."
            )
    z, usual = _robust_z(np.log(lengths)), np.median(lengths)
    for index in np.flatnonzero(np.abs(z) > LENGTH_Z):
        message = f"{lengths[index]} frames, the median is {usual:g} (robust z {z[index]:.1f})."
        remedy = "Watch this episode: cut short, or left running? Leave it out if so."
        yield Finding("warning", "episode length", int(episodes[index]), None, message, remedy)


def _robust_z(values: np.ndarray) -> np.ndarray:
    """(value - median) / (1.4826 median absolute deviation); zero where that deviation is zero."""
    off = values - np.median(values)
    scale = 1.4826 * np.median(np.abs(off))
    return off / scale if scale > 0 else np.zeros_like(off)


def _excursions(frames: Frames) -> Iterator[Finding]:
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
                f"{_dimension(frames.meta, key, int(index))} is {values[row, index]:g}; 98 % of all values "
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


def _units(frames: Frames) -> Iterator[Finding]:
    """Actions that are positions should move through the range that the state moves through."""
    state, action = frames.columns.get(OBS_STATE), frames.columns.get(ACTION)
    if state is None or action is None or state.shape != action.shape:
        return
    remedy = "Right if actions are changes or velocities; if they are positions, units or order differ."
    (low_s, high_s), (low_a, high_a) = _usual_range(state), _usual_range(action)
    narrow, wide = np.minimum(high_a - low_a, high_s - low_s), np.maximum(high_a - low_a, high_s - low_s)
    apart = (low_a > high_s) | (low_s > high_a)
    for index in np.flatnonzero((narrow > 0) & (apart | (wide > UNIT_RATIO * narrow))):
        message = (
            f"{_dimension(frames.meta, ACTION, int(index))} spans {low_a[index]:g} to {high_a[index]:g}, "
            f"{OBS_STATE} {low_s[index]:g} to {high_s[index]:g}."
        )
        yield Finding("warning", ACTION, None, None, message, remedy)


def _statistics(frames: Frames) -> Iterator[Finding]:
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
                f"{_dimension(frames.meta, key, index)} leaves the range in meta/stats.json, {low[index]:g} "
                f"to {high[index]:g} ({count})."
            )
            yield Finding("warning", key, episode, frame, message, remedy)


def _duplicates(frames: Frames, held_out: Sequence[int]) -> Iterator[Finding]:
    """Episodes with the same numbers: harmless twice in training, a leak across the split."""
    parts = [np.ascontiguousarray(values) for _, values in frames.features()]
    seen: dict[bytes, int] = {}
    for start, stop in zip(frames.starts, [*frames.starts[1:], len(frames.episode)], strict=True):
        digest = hashlib.sha256(b"".join(part[start:stop].tobytes() for part in parts)).digest()
        episode = int(frames.episode[start])
        original = seen.setdefault(digest, episode)
        if (original in held_out) != (episode in held_out):
            message = f"The same as episode {original}, on the other side of the held-out split."
            yield Finding("error", "split", episode, 0, message, "Leave one of the two out.")
        elif original != episode:
            message = f"The same as episode {original}."
            yield Finding("warning", "episode", episode, 0, message, "Leave one of the two out.")


CHECKS: tuple[Callable[[Frames], Iterator[Finding]], ...] = (
    _not_finite,
    _constant,
    _time,
    _lengths,
    _excursions,
    _units,
    _statistics,
)
