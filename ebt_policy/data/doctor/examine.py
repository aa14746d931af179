"""Runs all checks on a dataset, or on the part of it that a training uses."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import datasets
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION
from lerobot.utils.feature_utils import dataset_to_policy_features
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ebt_policy.data.camera_frames import TOLERANCE_S
from ebt_policy.data.doctor import (
    camera_checks,
    episode_checks,
    numeric_checks,
    picture_checks,
    task_checks,
)
from ebt_policy.data.doctor.findings import Examination, Finding
from ebt_policy.data.doctor.frames import Frames, read_frames
from ebt_policy.data.doctor.looks import looks
from ebt_policy.data.episodes import choose_episodes
from ebt_policy.data.feature_names import feature_names
from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.tables import load_rows
from ebt_policy.data.usable_features import how_to_leave_out, observation_features, why_unusable

Check = tuple[str, Callable[[], Iterable[Finding]]]  # what is looked at, and the search for faults


def examine(
    repo_id: str,
    root: str | Path | None = None,
    *,
    episodes: Sequence[int] | None = None,
    held_out: Sequence[int] = (),
    features: Sequence[str] | None = None,
    tolerance_s: float = TOLERANCE_S,
    progress: bool = False,
) -> Examination:
    """Reads all numbers and a few pictures, and looks for faults.

    episodes: the ones to look at, None for all. held_out: those of them that are kept from training; a copy among the
    others is then an error. features: the observations and actions to look at, None for all. tolerance_s: how far a
    picture of a video may lie from its row's time stamp. progress: show on stderr what is being looked at. Raises
    UserError where there is no such dataset or it cannot be opened.
    """
    began = time.perf_counter()
    meta = open_metadata(repo_id, root)
    chosen = choose_episodes(meta.total_episodes, episodes)
    wanted = [*observation_features(meta), ACTION] if features is None else list(features)
    examination = Examination(meta.repo_id, meta.root, meta.info.robot_type, float(meta.fps))
    usable = [key for key in wanted if key in meta.features and why_unusable(meta, key) is None]
    cameras = [key for key in meta.camera_keys if key in usable]

    console = Console(stderr=True)
    columns = (TextColumn("looking at {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, transient=True, console=console, disable=not (progress and console.is_terminal)
    ) as bar:
        task = bar.add_task("files", total=12 + 2 * len(cameras))

        def run(checks: Iterable[Check]) -> None:
            for what, search in checks:
                bar.update(task, description=what)
                examination.findings += search()
                examination.checks.append(what)
                bar.advance(task)

        run(
            [
                ("features", lambda: _features(meta, wanted)),
                ("files and ends of videos", lambda: camera_checks.files(meta, chosen, cameras)),
            ]
        )
        if any((meta.root / "data").glob("*/*.parquet")):
            table = load_rows(meta, episodes)
            frames = read_frames(meta, table, usable)
            if len(frames.episode):
                _describe(examination, meta, frames, usable, cameras)
                run(_checks(frames, table, cameras, chosen, held_out, tolerance_s))
                run(_look_check(examination, frames, table, camera, chosen) for camera in cameras)
    examination.findings.sort(key=lambda finding: finding.severity)
    examination.seconds = time.perf_counter() - began
    return examination


def _checks(
    frames: Frames,
    table: datasets.Dataset,
    cameras: list[str],
    episodes: list[int],
    held_out: Sequence[int],
    tolerance_s: float,
) -> list[Check]:
    has_video = bool(set(cameras) & set(frames.meta.video_keys))
    return [
        ("NaN and infinity", lambda: numeric_checks.not_finite(frames)),
        ("constant dimensions", lambda: numeric_checks.constant(frames)),
        ("time stamps", lambda: episode_checks.time_stamps(frames, has_video, tolerance_s)),
        ("frame numbers", lambda: episode_checks.frame_numbers(frames)),
        ("lengths of episodes", lambda: episode_checks.lengths(frames, episodes)),
        ("outliers", lambda: numeric_checks.excursions(frames)),
        ("joint names", lambda: numeric_checks.joint_names(frames)),
        ("units of state and action", lambda: numeric_checks.units(frames)),
        ("recorded statistics", lambda: numeric_checks.statistics(frames)),
        ("tasks", lambda: task_checks.tasks(frames)),
        *[_camera_check(frames.meta, table, camera, tolerance_s) for camera in cameras],
        ("copies of episodes", lambda: episode_checks.duplicates(frames, table, cameras, held_out)),
    ]


def _camera_check(
    meta: LeRobotDatasetMetadata, table: datasets.Dataset, camera: str, tolerance_s: float
) -> Check:
    return f"pictures of {camera}", lambda: camera_checks.pictures(meta, table, camera, tolerance_s)


def _look_check(
    examination: Examination, frames: Frames, table: datasets.Dataset, camera: str, chosen: Sequence[int]
) -> Check:
    def search() -> Iterable[Finding]:
        told = any(f.severity == "error" and f.feature == camera for f in examination.findings)
        yield from picture_checks.video_formats(frames.meta, camera, chosen, sizes=not told)
        examination.seen[camera] = list(looks(frames.meta, table, camera))
        yield from picture_checks.picture_faults(frames, camera, examination.seen[camera])

    return f"what {camera} shows", search


def _features(meta: LeRobotDatasetMetadata, wanted: Sequence[str]) -> Iterable[Finding]:
    """Features of a kind that no policy here can use. `train` refuses them, so that none is left out unnoticed."""
    if ACTION not in meta.features:
        yield Finding(
            "error", ACTION, None, None, "The dataset has no actions.", "Record demonstrations with actions."
        )
    for key in wanted:
        kind = why_unusable(meta, key) if key in meta.features else None
        if kind and key == ACTION:
            remedy = "Store the actions as vectors, one number for each joint."
            yield Finding("error", key, None, None, f"This is {kind}.", remedy)
        elif kind:
            message = f"This is {kind}: no policy here can use it."
            yield Finding("warning", key, None, None, message, f"In training: {how_to_leave_out(meta)}")


def _describe(
    examination: Examination,
    meta: LeRobotDatasetMetadata,
    frames: Frames,
    wanted: Sequence[str],
    cameras: Sequence[str],
) -> None:
    """What was read: sizes, cameras, joints, tasks."""
    examination.episodes, examination.frames = len(frames.starts), len(frames.episode)
    shapes = {key: dataset_to_policy_features({key: meta.features[key]})[key].shape for key in cameras}
    examination.cameras = {
        key: f"{height} x {width}, {'video' if key in meta.video_keys else 'images'}"
        for key, (_, height, width) in shapes.items()
    }
    for key in wanted:
        if key in frames.columns:
            names = feature_names(meta.features, key)
            size = frames.columns[key].shape[1]
            examination.features[key] = f"{size}: {', '.join(names)}" if names else f"{size}, without names"
    counts = task_checks.task_counts(frames)
    examination.tasks = {text: number for text, (_, number) in counts.items()}
    examination.task_episodes = {text: number for text, (number, _) in counts.items()}
