"""Checks of what a camera shows: black, frozen, over-exposed, blurred, swapped channels; and of its videos' size and rate.

Each looks at a few pictures of each episode (see `looks`). Thresholds are wide: a finding deserves a look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_STATE
from lerobot.utils.feature_utils import dataset_to_policy_features

from ebt_policy.data.doctor.findings import Finding
from ebt_policy.data.doctor.frames import Frames, count
from ebt_policy.data.doctor.looks import Look

BLACK = 0.98  # share of dark pixels
WHITE = 0.98  # share of white pixels,
WHITE_MORE = 0.4  # or so much more of the picture than usual for the camera: PushT's usual is .92
SAME = (
    3.0  # levels of 255: no square of the picture changes by more; sensors make more noise, and encoders less
)
MOVED = 0.1  # of the range of a joint: so much should show
BLURRED = 0.03  # of the contrast is finer than 4 pixels: a camera of 640 x 480 out of focus by 4 pixels; sharp it has .14,
LESS_SHARP = 0.4  # or so much of the camera's usual
OTHER_COLOUR = 6.0  # levels from the usual colours: less tells nothing about channels
SWAPPED = 0.4  # of that distance is left when red and blue are exchanged
RATE_OFF = 0.01  # of the frames a second


def picture_faults(frames: Frames, camera: str, seen: Sequence[Look]) -> Iterator[Finding]:
    """All checks of one camera. seen: its episodes, looked at."""
    if not seen:
        return
    usual = float(np.median(np.concatenate([look.bright for look in seen])))
    white = min(WHITE, usual + WHITE_MORE)
    yield from _black(frames, camera, seen)
    yield from _white(frames, camera, seen, white)
    yield from _frozen(frames, camera, seen, white)
    # Of a picture without contents it cannot be told.
    yield from _blurred(
        camera, [look for look in seen if look.dark.max() < BLACK and look.bright.max() < white]
    )
    yield from _swapped(camera, seen)


def _first(frames: Frames, seen: Sequence[Look], marks: Sequence[np.ndarray]) -> tuple[int, int, str] | None:
    """Episode and frame of the first marked picture, and how many there are, in words; None where there is none."""
    found = [(look, int(np.argmax(mark))) for look, mark in zip(seen, marks, strict=True) if mark.any()]
    if not found:
        return None
    look, index = found[0]
    words = (
        f"{sum(int(mark.sum()) for mark in marks)} of {count(sum(map(len, marks)), 'picture')} looked at, in "
    )
    return look.episode, int(frames.frame[look.rows[index]]), words + count(len(found), "episode")


def _black(frames: Frames, camera: str, seen: Sequence[Look]) -> Iterator[Finding]:
    if where := _first(frames, seen, [look.dark >= BLACK for look in seen]):
        episode, frame, words = where
        remedy = "Was the lens covered, the light off, or the camera not yet open? Leave these episodes out."
        yield Finding("warning", camera, episode, frame, f"The picture is black ({words}).", remedy)


def _white(frames: Frames, camera: str, seen: Sequence[Look], limit: float) -> Iterator[Finding]:
    if where := _first(frames, seen, [look.bright >= limit for look in seen]):
        episode, frame, words = where
        most = max(look.bright.max() for look in seen)
        message = f"The picture is over-exposed: {most:.0%} of it is white ({words})."
        remedy = "Fix exposure and gain before recording; leave these episodes out if the scene cannot be made out."
        yield Finding("warning", camera, episode, frame, message, remedy)


def _frozen(frames: Frames, camera: str, seen: Sequence[Look], white: float) -> Iterator[Finding]:
    """The same picture twice in an episode although a joint moved in between."""
    motion = _motion(frames)
    if motion is None:
        return
    marks = []
    for look in seen:
        moved = np.abs(np.diff(motion[look.rows], axis=0)).max(1) > MOVED
        change = np.abs(np.diff(look.blocks, axis=0)).max((1, 2, 3))
        shown = (look.dark < BLACK) & (look.bright < white)
        marks.append(np.append(False, moved & (change <= SAME)) & shown)
    if where := _first(frames, seen, marks):
        episode, frame, words = where
        message = f"The same picture as {_seconds(frames, seen, episode)} before, although the robot moved ({words})."
        remedy = (
            "A frozen camera: look at its cable and at the load of the computer, and leave these episodes out. Right if this "
            "camera does not see the robot."
        )
        yield Finding("warning", camera, episode, frame, message, remedy)


def _seconds(frames: Frames, seen: Sequence[Look], episode: int) -> str:
    rows = next(look.rows for look in seen if look.episode == episode)
    return f"{np.diff(rows).max() / frames.meta.fps:.1f} s"


def _motion(frames: Frames) -> np.ndarray | None:
    """State and action (F, D) in parts of their ranges; None where neither is there or nothing moves."""
    parts = [frames.columns[key] for key in (OBS_STATE, ACTION) if key in frames.columns]
    if not parts:
        return None
    values = np.nan_to_num(np.concatenate(parts, 1).astype(np.float64), posinf=0, neginf=0)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    moving = high - low > 1e-6
    return (values / np.where(moving, high - low, 1))[:, moving] if moving.any() else None


def _blurred(camera: str, seen: Sequence[Look]) -> Iterator[Finding]:
    detail = np.array([look.detail for look in seen])
    if not np.isfinite(detail).any():
        return
    usual = np.nanmedian(detail)
    remedy = "Clean and focus the lens. A policy sees no more than the pictures show; in use it must be as sharp as here."
    if usual < BLURRED:
        message = f"Nothing in the pictures is finer than 4 pixels ({usual:.1%} of the contrast): blurred, or enlarged."
        yield Finding("warning", camera, None, None, message, remedy)
        return
    low = detail < LESS_SHARP * usual
    if low.any():
        index = int(np.argmax(low))
        message = (
            f"Blurred: {detail[index]:.1%} of the contrast is finer than 4 pixels, {usual:.1%} in the camera's usual "
            f"episode ({count(int(low.sum()), 'episode')} of {len(seen)} looked at)."
        )
        yield Finding("warning", camera, seen[index].episode, None, message, remedy)


def _swapped(camera: str, seen: Sequence[Look]) -> Iterator[Finding]:
    """Red and blue exchanged in some episodes. In all of them it cannot be told from the pictures."""
    colours = np.stack([look.colours for look in seen])  # (episodes, C, q)
    if colours.shape[1] != 3 or len(seen) < 3:
        return
    usual = np.median(colours, 0)
    away = np.abs(colours - usual).mean((1, 2))
    exchanged = np.abs(colours[:, ::-1] - usual).mean((1, 2))
    bad = (away > OTHER_COLOUR) & (exchanged < SWAPPED * away)
    if bad.any():
        message = (
            f"Red and blue seem to be exchanged: its colours are {away[bad][0]:.0f} levels from those of most episodes, "
            f"{exchanged[bad][0]:.0f} with the channels exchanged ({count(int(bad.sum()), 'episode')} of {len(seen)} looked at)."
        )
        remedy = "BGR was stored as RGB there, as OpenCV gives it: convert these episodes, or leave them out."
        yield Finding("warning", camera, seen[int(np.argmax(bad))].episode, None, message, remedy)


def video_formats(
    meta: LeRobotDatasetMetadata, camera: str, episodes: Sequence[int], sizes: bool = True
) -> Iterator[Finding]:
    """Size (unless it is told already) and rate in the header of each video against meta/info.json."""
    if camera not in meta.video_keys:
        return
    import av

    shape = dataset_to_policy_features({camera: meta.features[camera]})[camera].shape
    first: dict[Path, int] = {}
    for episode in episodes:
        first.setdefault(meta.root / meta.get_video_file_path(episode, camera), episode)
    for path, episode in first.items():
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                size, rate = (stream.height, stream.width), stream.average_rate
        except Exception:  # told by `files`
            continue
        if sizes and size != tuple(shape[1:]):
            message = f"{path} is {size[0]} x {size[1]}; meta/info.json declares {shape[1]} x {shape[2]}."
            remedy = "Training and robot need one size for a camera: scale these videos, or leave their episodes out."
            yield Finding("error", camera, episode, None, message, remedy)
        if rate is not None and abs(float(rate) / meta.fps - 1) > RATE_OFF:
            message = f"{path} has {float(rate):.4g} frames a second; meta/info.json declares {meta.fps}."
            remedy = "Pictures would belong to other moments than their rows: encode the video at the dataset's rate."
            yield Finding("error", camera, episode, None, message, remedy)
