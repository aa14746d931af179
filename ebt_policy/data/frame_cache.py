"""Decoded pictures on disk, for datasets that do not fit into memory: one raw file for each episode and camera.

    <folder>/<dataset>/<camera>@<height>x<width>/<fingerprint>.u8     (rows, C, H, W) uint8

The name of a file is a fingerprint of everything that its pictures depend on, so a changed dataset never meets old
pictures. A file gets its name when it is complete: what was interrupted goes on with the episodes that are missing.
"""

import hashlib
import math
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO
from uuid import uuid4

import datasets
import numpy as np
import torch
from filelock import FileLock, Timeout
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from rich.console import Console
from torch import Tensor

from ebt_policy.data.open_dataset import episode_rows
from ebt_policy.errors import UserError

FOLDER = "EBT_POLICY_CACHE"  # environment variable
FORMAT = "1"  # of the files: another one makes them all anew
READERS = 8  # threads: a disk answers several reads at a time
SUFFIX = ".u8"
UNFINISHED = ".tmp"


def cache_folder() -> Path:
    """Where pictures are kept: $EBT_POLICY_CACHE, or ebt_policy in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(FOLDER) or f"{base}/ebt_policy").expanduser()


class FramesOnDisk:
    """Pictures (F, C, H, W) in files, uint8 or another type, read where they are asked for. Holds none in memory.

    Reads into ordinary memory instead of mapping files: mapped pages count as the process's own.
    """

    def __init__(
        self,
        files: Sequence[Path],
        lengths: Sequence[int],
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        """files: of episodes in order, lengths: their frames, shape: (C, H, W)."""
        self._files = list(files)
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        self.shape = (self._starts[-1], *shape)
        self._dtype, self._frame_bytes = dtype, math.prod(shape) * dtype.itemsize
        self._pool = ThreadPoolExecutor(READERS, "frames")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """rows (...) int64 -> (..., C, H, W) on the CPU. Raises UserError where a file is gone."""
        wanted = rows.flatten().tolist()
        pictures = torch.empty((len(wanted), *self.shape[1:]), dtype=self._dtype)
        places = pictures.flatten(1).numpy()
        parts = [range(i, len(wanted), READERS) for i in range(min(READERS, len(wanted)))]
        for job in [self._pool.submit(self._read, wanted, places, part) for part in parts]:
            job.result()
        return pictures.view(*rows.shape, *self.shape[1:])

    def _read(self, wanted: list[int], places: np.ndarray, part: Iterable[int]) -> None:
        for i in part:
            episode = bisect_right(self._starts, wanted[i]) - 1
            path = self._files[episode]
            try:
                with open(path, "rb", buffering=0) as file:
                    file.seek((wanted[i] - self._starts[episode]) * self._frame_bytes)
                    found = file.readinto(places[i])
            except PermissionError as error:
                raise UserError(f"Cached pictures or maps cannot be read: {error}. {RIGHTS}") from error
            except OSError as error:
                raise _gone(path, f" ({error.strerror})") from error
            if found != self._frame_bytes:
                raise _gone(path)


def _gone(path: Path, cause: str = "") -> UserError:
    return UserError(
        f"Cached pictures or maps are gone or cut short: {path}{cause}. Start the training again (--resume): they are made anew."
    )


@dataclass(frozen=True)
class EpisodeFile:
    """One episode of a camera: rows start to stop of the table, in `path`, which need not be there yet."""

    episode: int
    start: int
    stop: int
    path: Path
    size: int  # bytes

    @property
    def complete(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size == self.size


def episode_files(
    meta: LeRobotDatasetMetadata,
    table: datasets.Dataset,
    camera: str,
    shape: tuple[int, ...],
    spans: Sequence[tuple[int, int, int]],
    tolerance_s: float,
    folder: Path | None = None,
) -> list[EpisodeFile]:
    """Where the pictures (C, H, W) of each span (episode, first row, row behind the last) are kept."""
    place = folder or cache_folder()
    place = place / file_name(meta.repo_id) / f"{file_name(camera)}@{shape[-2]}x{shape[-1]}"
    timestamps = table.select_columns("timestamp").with_format("numpy")[:]["timestamp"]
    found = []
    for episode, start, stop in spans:
        mark = hashlib.sha256(f"{FORMAT} {camera} {shape} {tolerance_s} {stop - start}".encode())
        mark.update(np.asarray(timestamps[start:stop], np.float64).tobytes())
        if camera in meta.video_keys:
            offset = episode_rows(meta)[episode][f"videos/{camera}/from_timestamp"]
            mark.update(
                f"{offset} {_video_digest(meta.root / meta.get_video_file_path(episode, camera))}".encode()
            )
        else:
            stored = table.select_columns([camera]).cast_column(camera, datasets.Image(decode=False))
            for picture in stored[start:stop][camera]:
                mark.update(picture["bytes"] or _file_digest(str(picture["path"])).encode())
        path = place / f"{mark.hexdigest()[:32]}{SUFFIX}"
        found.append(EpisodeFile(episode, start, stop, path, (stop - start) * math.prod(shape)))
    return found


def _video_digest(path: Path) -> str:
    """sha256 of a file, once for each process as long as it is not touched: many episodes share a video."""
    status = path.stat()
    return _file_digest(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(path: str, *unchanged: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(name: str) -> str:
    return name.replace("/", "--")


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Writes `path`, which is there once it is complete, or not at all. Raises UserError where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(
        f"{uuid4().hex}{UNFINISHED}"
    )  # not by tempfile, whose files nobody else may read
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"Pictures or maps cannot be written to {path.parent}: {error}. {REMEDY}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _lock(dataset: str) -> FileLock:
    """Of whoever makes pictures or maps of this dataset; any user may take it."""
    return FileLock(cache_folder() / f".{file_name(dataset)}.lock", mode=0o666)


@contextmanager
def making(dataset: str) -> Iterator[None]:
    """One process at a time makes pictures or maps of a dataset; another one waits, and says so. What killed ones left is deleted.

    Raises UserError where this user may not write to the cache.
    """
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        lock = _lock(dataset)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            Console().print(
                f"Waiting for another training that makes pictures or maps of '{dataset}' ({lock.lock_file}).",
                soft_wrap=True,
            )
            lock.acquire()
    except PermissionError as error:
        raise UserError(f"Nothing can be written to {cache_folder()}: {error}. {RIGHTS}") from error
    try:
        for file in unfinished(dataset):
            file.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def unfinished(dataset: str) -> list[Path]:
    """What is being written of this dataset, or was when a process was killed."""
    return sorted((cache_folder() / file_name(dataset)).glob(f"*/*{UNFINISHED}"))


def left_over(dataset: str) -> list[Path]:
    """What killed processes left of this dataset; nothing while one is writing, or where that cannot be known."""
    if not unfinished(dataset):
        return []
    try:
        with _lock(dataset).acquire(timeout=0):
            return unfinished(dataset)
    except (Timeout, OSError):
        return []


RIGHTS = f"It belongs to another user: have it shared (chmod -R a+rX by its owner), or name a folder of your own in {FOLDER}."
REMEDY = (
    f"Free some space (`ebt-policy cache` shows what is kept, --clear removes it), name a folder on a larger disk in {FOLDER}, "
    "or make pictures smaller (policy.resize_shape, for example [240, 320])."
)


def check_space(files: Iterable[EpisodeFile], folder: Path | None = None) -> None:
    """Raises UserError where the missing ones among `files` do not fit on the disk."""
    place = folder or cache_folder()
    needed = sum(file.size for file in files if not file.complete)
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"Pictures or maps need {needed / 1e9:.3g} GB on disk, and {place} has {free / 1e9:.3g} GB left. {REMEDY}"
        )


def all_complete(files: Iterable[EpisodeFile]) -> bool:
    """Then nothing is to be made, and no right to write is needed."""
    return all(file.complete for file in files)


def mark_used(files: Iterable[EpisodeFile]) -> None:
    """Sets the time of the files to now: `ebt-policy cache` shows it, and can remove what was not used for long."""
    for file in files:
        with suppress(OSError):  # somebody else's cache
            os.utime(file.path)
