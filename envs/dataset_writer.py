"""Writing a LeRobot dataset atomically: into a temporary folder that is renamed when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.errors import UserError

Episode = Mapping[str, NDArray[Any]]  # feature -> (T, ...)


def refuse_existing(output: Path) -> None:
    """Raises UserError if the path exists."""
    if output.exists():
        raise UserError(f"{output} exists already. Name a new folder, or remove this one.")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `output` at the end, or removed after an error."""
    refuse_existing(output)
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder would write into the user's terminal
    staging = output.with_name(output.name + ".staging")
    shutil.rmtree(staging, ignore_errors=True)  # left by a killed process
    try:
        yield staging
        os.replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Restore the calling thread's normal scheduling at the end.

    SVT-AV1, LeRobot's video encoder, gives its calling thread real-time priority (SCHED_FIFO, 99) when it runs as root. The
    thread and its children would then starve all other processes.
    """
    try:
        yield
    finally:
        if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def write_episodes(
    folder: Path,
    repo_id: str,
    fps: int,
    task: str,
    episodes: Iterable[Episode],
    names: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Write `episodes` one by one as a LeRobot dataset into the new `folder`; returns their number.

    The first episode determines the features: uint8 (T, H, W, 3) becomes a video, everything else float32 (T, ...). Without
    episodes nothing is written. task: sentence of the episodes that have no entry `task` of their own. names: feature -> the
    name of each of its entries.
    """
    with ordinary_scheduling():
        return _write_episodes(folder, repo_id, fps, task, episodes, names or {})


def _write_episodes(
    folder: Path,
    repo_id: str,
    fps: int,
    task: str,
    episodes: Iterable[Episode],
    names: Mapping[str, Sequence[str]],
) -> int:
    import av.logging
    import datasets
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    av.logging.set_libav_level(av.logging.WARNING)  # it would tell of each video in the user's terminal
    dataset, had_bars = None, not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # LeRobot would show one per episode
    try:
        for given in episodes:
            sentence = str(given.get("task", task))
            episode = {name: values for name, values in given.items() if name != "task"}
            if dataset is None:
                features = {name: _feature(values, names.get(name)) for name, values in episode.items()}
                dataset = LeRobotDataset.create(repo_id, fps, features, root=folder)
            for tick in range(len(episode["action"])):
                dataset.add_frame(
                    {name: values[tick] for name, values in episode.items()} | {"task": sentence}
                )
            dataset.save_episode()
    finally:
        # Also after an error: otherwise the garbage collector would do it when the folder is already gone.
        if dataset is not None:
            dataset.finalize()
        if had_bars:
            datasets.enable_progress_bars()
    return 0 if dataset is None else dataset.meta.total_episodes


def _feature(values: NDArray[Any], names: Sequence[str] | None) -> dict[str, Any]:
    """LeRobot's description of the feature with `values` (T, ...). names: of its entries."""
    if values.dtype == np.uint8 and values.ndim == 4:
        return {"dtype": "video", "shape": values.shape[1:], "names": ["height", "width", "channels"]}
    return {"dtype": "float32", "shape": values.shape[1:], "names": names and list(names)}
