"""Checks of episodes: time stamps, lengths, and episodes that are copies of others."""

import hashlib
from collections.abc import Iterator, Sequence

import datasets
import numpy as np

from ebt_policy.data.doctor.camera_checks import same_pictures
from ebt_policy.data.doctor.findings import Finding
from ebt_policy.data.doctor.frames import Frames
from ebt_policy.data.open_dataset import episode_rows

LENGTH_Z = 6.0  # robust z of the logarithm of an episode's length: a normal one gets there once in 10^9
TIME_TOLERANCE_S = 1e-4  # of the step from one frame to the next


def time_stamps(frames: Frames, has_video: bool, tolerance_s: float) -> Iterator[Finding]:
    """Time stamps should advance by one period; those of a video must, because its pictures are found by them.

    tolerance_s: how far a picture of a video may lie from its row's time stamp.
    """
    inside = frames.episode[1:] == frames.episode[:-1]
    period, timestamps = 1 / frames.meta.fps, frames.columns["timestamp"][:, 0].astype(np.float64)
    step = np.diff(timestamps)
    rounding = 1e-6 * np.abs(timestamps)  # they are stored in single precision
    bad = np.append(False, inside & (np.abs(step - period) > TIME_TOLERANCE_S + rounding[1:]))
    lengths = np.diff(frames.starts, append=len(timestamps))
    expected = (np.arange(len(timestamps)) - np.repeat(frames.starts, lengths)) * period
    late = np.abs(timestamps - expected)  # from the video's picture of the same row
    far = late > tolerance_s + rounding
    if has_video and far.any():
        episode, frame, count = frames.first(far)
        worst = late.max()
        message = f"Up to {worst:.4f} s from the picture of its row in the video ({count})."
        if bad.any():
            episode, frame, count = frames.first(bad)
            message = f"{_step(step, bad)} ({count}); up to {worst:.4f} s from its picture in the video."
        if worst < 0.5 * period:
            allowed = np.ceil(worst * 1e3 + 0.5) / 1e3
            remedy = (
                f"Take the nearest picture: --set dataset.tolerance_s={allowed:g}. Or resample to the fps."
            )
        else:
            remedy = "Frames are missing or came late: leave these episodes out, or resample them to the fps."
        yield Finding("error", "timestamp", episode, frame, message, remedy)
    elif bad.any():
        episode, frame, count = frames.first(bad)
        message = f"{_step(step, bad)} ({count})."
        remedy = (
            "Training takes the rows as equally spaced. Right if this is jitter of the clock; else resample."
        )
        yield Finding("warning", "timestamp", episode, frame, message, remedy)


def _step(step: np.ndarray, bad: np.ndarray) -> str:
    found = step[np.argmax(bad) - 1]
    usual = float(np.median(step))
    return f"{found:.4f} s after the frame before, the median is {usual:.4f} s"


def frame_numbers(frames: Frames) -> Iterator[Finding]:
    """Frame numbers must count up from zero in each episode."""
    inside = frames.episode[1:] == frames.episode[:-1]
    bad = np.append(False, inside & (np.diff(frames.frame) != 1))
    bad[frames.starts] = frames.frame[frames.starts] != 0
    if bad.any():
        episode, frame, count = frames.first(bad)
        message = f"Frame numbers do not count up from 0 ({count})."
        remedy = "Rows are missing or out of order: write the dataset again."
        yield Finding("error", "frame_index", episode, frame, message, remedy)


def lengths(frames: Frames, episodes: Sequence[int]) -> Iterator[Finding]:
    """Rows against metadata, and lengths far from the others'. episodes: those that should be there."""
    found = np.diff(frames.starts, append=len(frames.episode))
    numbers = frames.episode[frames.starts]
    rows = dict(zip(numbers.tolist(), found.tolist(), strict=True))
    described = episode_rows(frames.meta)
    recorded = dict(zip(described["episode_index"], described["length"], strict=True))
    for episode in sorted({*episodes, *rows}):
        if recorded.get(episode) != rows.get(episode, 0):
            message = f"{rows.get(episode, 0)} rows, the metadata says {recorded.get(episode)}."
            yield Finding(
                "error", "data", episode, None, message, "Write the dataset again, or copy it again."
            )
    z, usual = _robust_z(np.log(found)), np.median(found)
    for index in np.flatnonzero(np.abs(z) > LENGTH_Z):
        message = f"{found[index]} frames, the median is {usual:g} (robust z {z[index]:.1f})."
        remedy = "Watch this episode: cut short, or left running? Leave it out if so."
        yield Finding("warning", "episode length", int(numbers[index]), None, message, remedy)


def _robust_z(values: np.ndarray) -> np.ndarray:
    """(value - median) / (1.4826 median absolute deviation); zero where that deviation is zero."""
    off = values - np.median(values)
    scale = 1.4826 * np.median(np.abs(off))
    return off / scale if scale > 0 else np.zeros_like(off)


def duplicates(
    frames: Frames, table: datasets.Dataset, cameras: Sequence[str], held_out: Sequence[int]
) -> Iterator[Finding]:
    """Episodes with the same numbers and the same pictures: harmless twice in training, a leak across the split.

    A dataset in which no number moves is told apart by its pictures alone, and not at all without cameras.
    """
    parts = [values[:, (values != values[:1]).any(0)] for _, values in frames.features()]
    if not sum(part.shape[1] for part in parts) and not cameras:
        return
    seen: dict[
        bytes, list[tuple[int, int]]
    ] = {}  # numbers -> (episode, first row) of those that look different
    for start, stop in zip(frames.starts, [*frames.starts[1:], len(frames.episode)], strict=True):
        digest = hashlib.sha256(str(stop - start).encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part[start:stop]).tobytes())
        own = (int(frames.episode[start]), int(start))
        before = seen.setdefault(digest.digest(), [])
        original = next(
            (
                other
                for other in before
                if same_pictures(frames.meta, table, cameras, other, own, stop - start)
            ),
            None,
        )
        if original is None:
            before.append(own)
            continue
        message, remedy = f"The same as episode {original[0]}", "Leave one of the two out."
        if (original[0] in held_out) != (own[0] in held_out):
            yield Finding(
                "error", "split", own[0], 0, f"{message}, on the other side of the held-out split.", remedy
            )
        else:
            yield Finding("warning", "episode", own[0], 0, f"{message}.", remedy)
