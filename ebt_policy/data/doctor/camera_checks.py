"""Checks of files and pictures. Of each video the last picture is decoded, of each camera a few more."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.video_utils import decode_video_frames
from lerobot.utils.feature_utils import dataset_to_policy_features

from ebt_policy.data.camera_frames import BACKEND, SIZE_REMEDY, picture_reader, wrong_size
from ebt_policy.data.doctor.findings import Finding
from ebt_policy.data.open_dataset import episode_rows
from ebt_policy.data.tables import fetch_missing

SAMPLES = 5  # pictures of each camera, from different episodes
MEAN_OFF = 0.25  # of the range 0..1, between recorded statistics and the sampled pictures
AGAIN = "Copy the dataset again, or leave these episodes out."


def files(meta: LeRobotDatasetMetadata, episodes: Sequence[int], cameras: Sequence[str]) -> Iterator[Finding]:
    """Tables and videos that are not there, and videos that end before their last episode does."""
    absent = fetch_missing(meta, episodes, cameras)
    for path, (feature, episode) in absent.items():
        yield Finding("error", feature, episode, None, f"{meta.root / path} is missing.", AGAIN)
    ends: dict[tuple[str, Path], tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for episode in episodes:
        for key in set(cameras) & set(meta.video_keys):
            place = (key, meta.get_video_file_path(episode, key))
            ends[place] = max(
                ends[place], (episode_rows(meta)[episode][f"videos/{key}/to_timestamp"], episode)
            )
    for (key, path), (end, episode) in sorted(ends.items()):
        if path in absent:
            continue
        last = end - 1 / meta.fps
        try:
            decode_video_frames(meta.root / path, [last], 0.5 / meta.fps, BACKEND)
        except Exception as error:  # whatever the decoder raises, the file is of no use
            reason = str(error).splitlines()[0]
            message = f"{meta.root / path} has no picture at {last:.2f} s, its last: {reason}"
            yield Finding("error", key, episode, None, message, AGAIN)


def pictures(
    meta: LeRobotDatasetMetadata, table: datasets.Dataset, camera: str, tolerance_s: float
) -> Iterator[Finding]:
    """Size and statistics of a camera against a few of its pictures. A picture that cannot be read is left to `files`."""
    episodes = table.select_columns("episode_index").with_format("numpy")[:]["episode_index"]
    read = picture_reader(meta, table, camera, max(tolerance_s, 0.5 / meta.fps))
    means = []
    for row in np.unique(np.linspace(0, len(episodes) - 1, SAMPLES).astype(int)):
        episode = int(episodes[row])
        try:
            picture = read(episode, int(row), int(row) + 1)  # (1, C, H, W) uint8
        except Exception as error:
            if camera in meta.video_keys:
                continue
            yield Finding("error", camera, episode, None, f"A picture cannot be read: {error}", AGAIN)
            return
        declared = dataset_to_policy_features({camera: meta.features[camera]})[camera].shape
        if mismatch := wrong_size(declared, picture.shape[1:]):
            yield Finding("error", camera, episode, None, mismatch[0].upper() + mismatch[1:], SIZE_REMEDY)
            return
        means.append(picture.double().mean((0, 2, 3)).numpy() / 255)  # (C,)
    if means:
        yield from _recorded_statistics(meta, camera, np.mean(means, axis=0))


def _recorded_statistics(meta: LeRobotDatasetMetadata, camera: str, mean: np.ndarray) -> Iterator[Finding]:
    """meta/stats.json against the mean (C,) of sampled pictures in 0..1."""
    remedy = (
        "`ebt-policy train` computes its own. LeRobot's commands normalise by these: recompute them with "
        "lerobot-edit-dataset --operation.type recompute_stats --operation.skip_image_video=false."
    )
    stats = (meta.stats or {}).get(camera) or {}
    recorded = stats.get("mean")
    problem = None
    if recorded is None or stats.get("std") is None:
        problem = "meta/stats.json has no mean and std of this camera."
    elif np.size(recorded) != len(mean):
        problem = f"meta/stats.json has {np.size(recorded)} means for {len(mean)} channels."
    elif not np.isfinite(recorded).all() or np.max(recorded) > 1 or np.max(stats.get("max", 0)) > 1.001:
        problem = (
            f"The mean in meta/stats.json is {np.max(recorded):.4g}; LeRobot expects pictures in 0..1, and "
            "these statistics seem to be of pictures in 0..255."
        )
    elif np.abs(np.ravel(recorded) - mean).max() > MEAN_OFF:
        problem = (
            f"The mean in meta/stats.json is {np.round(np.ravel(recorded), 2).tolist()}, of a few pictures "
            f"{np.round(mean, 2).tolist()}."
        )
    if problem:
        yield Finding("warning", camera, None, None, problem, remedy)


def same_pictures(
    meta: LeRobotDatasetMetadata,
    table: datasets.Dataset,
    cameras: Sequence[str],
    left: tuple[int, int],
    right: tuple[int, int],
    length: int,
) -> bool:
    """Whether two episodes of `length` rows, each given as (episode, first row), look alike at SAMPLES moments.

    Alike: on average at most two of 255 levels apart, which is what encoding a video anew changes.
    """
    for camera in cameras:
        read = picture_reader(meta, table, camera, 0.5 / meta.fps)
        for tick in np.unique(np.linspace(0, length - 1, SAMPLES).astype(int)):
            try:
                a, b = (read(e, row + int(tick), row + int(tick) + 1).double() for e, row in (left, right))
            except Exception:  # told by `files`
                return False
            if a.shape != b.shape or (a - b).abs().mean() > 2:
                return False
    return True
