"""Camera frames decoded once into memory as uint8, so that training never waits for a video decoder."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.video_utils import decode_video_frames
from lerobot.utils.feature_utils import dataset_to_policy_features
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ebt_policy.errors import UserError
from ebt_policy.model.encoders import resized

BACKEND = "pyav"  # everywhere the same pictures; runs of frames gain nothing from torchcodec's random access
BLOCK = 64  # frames at their own size that a thread holds while it makes them smaller: 0.3 GB at 480 x 640 in float32
TOLERANCE_S = 1e-4  # LeRobot's own: how far a frame may lie from the time stamp that asks for it


def decode_cameras(
    meta: LeRobotDatasetMetadata,
    table: datasets.Dataset,
    cameras: Sequence[str],
    limit_gb: float,
    resize_shape: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Every frame of `table` (F rows): camera -> (F, C, H, W) uint8.

    limit_gb: bound on all cameras together, in 10^9 bytes. resize_shape: (H, W) of all of them, None: their own; made
    by the encoder's own function, so that rounding to uint8 is all that tells them from pictures resized there. Raises
    UserError: beyond the bound (with the size needed, before decoding), for a depth camera, and for pictures that
    cannot be decoded (camera and episode).
    """
    if not cameras:
        return {}
    for camera in set(cameras) & set(meta.depth_keys):
        raise UserError(
            f"{camera}: depth maps are not supported (8-bit pictures only). Leave this feature out."
        )
    features = dataset_to_policy_features({key: meta.features[key] for key in cameras})  # (C, H, W)
    shapes = {key: (f.shape[0], *(resize_shape or f.shape[1:])) for key, f in features.items()}
    sizes = {key: len(table) * math.prod(shape) / 1e9 for key, shape in shapes.items()}
    if sum(sizes.values()) > limit_gb:
        raise UserError(
            "Decoded pictures need "
            + ", ".join(f"{size:.3g} GB for {key}" for key, size in sizes.items())
            + f"; the limit (image_cache_gb) is {limit_gb:g} GB. Raise it if the memory is there, use fewer "
            "episodes or cameras, or make the pictures smaller (policy.resize_shape, for example [240, 320])."
        )
    episodes = table.select_columns("episode_index").with_format("numpy")[:]["episode_index"]
    borders = np.flatnonzero(np.diff(episodes, prepend=-1, append=-1))
    cache: dict[str, Tensor] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for camera in cameras:
            read = (
                _video_reader(meta, table, camera)
                if camera in meta.video_keys
                else _picture_reader(table, camera)
            )
            spans = list(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True))
            jobs = [
                pool.submit(_decode, read, resize_shape, camera, int(episodes[a]), a, b) for a, b in spans
            ]
            bar = progress.add_task(f"decoding {camera} (episodes)", total=len(jobs))
            try:
                for (start, stop), job in zip(spans, jobs, strict=True):
                    frames = job.result()
                    if camera not in cache:
                        cache[camera] = torch.empty((len(table), *frames.shape[1:]), dtype=torch.uint8)
                    cache[camera][start:stop] = frames
                    progress.advance(bar)
                jobs.clear()
            finally:
                for job in jobs:
                    job.cancel()
    return cache


Reader = Callable[
    [int, int, int], Tensor
]  # (episode, first row, row behind the last) -> (rows, C, H, W) uint8


def _decode(
    read: Reader, resize_shape: tuple[int, int] | None, camera: str, episode: int, start: int, stop: int
) -> Tensor:
    try:
        if resize_shape is None:
            return read(episode, start, stop)
        blocks = [range(start, stop)[i : i + BLOCK] for i in range(0, stop - start, BLOCK)]
        return torch.cat([_resized_uint8(read(episode, b.start, b.stop), resize_shape) for b in blocks])
    except Exception as error:  # decoders raise many kinds; the user needs the place
        raise UserError(
            f"{camera}, episode {episode}: its pictures cannot be decoded. Copy or record it again, or "
            f"leave it out. Cause: {error}"
        ) from error


def _resized_uint8(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, C, H, W) uint8 -> (F, C, h, w) uint8; torchvision's own uint8 resizing also rounds its weights."""
    return resized(pictures.to(torch.float32), size).round_().to(torch.uint8)


def _video_reader(meta: LeRobotDatasetMetadata, table: datasets.Dataset, camera: str) -> Reader:
    timestamps = table.select_columns("timestamp").with_format("numpy")[:]["timestamp"]

    def read(episode: int, start: int, stop: int) -> Tensor:
        offset = meta.episodes[episode][f"videos/{camera}/from_timestamp"]
        path = meta.root / meta.get_video_file_path(episode, camera)
        wanted = [offset + seconds for seconds in timestamps[start:stop].tolist()]
        return decode_video_frames(path, wanted, TOLERANCE_S, BACKEND, return_uint8=True)

    return read


def _picture_reader(table: datasets.Dataset, camera: str) -> Reader:
    pictures = table.select_columns([camera])
    return lambda episode, start, stop: torch.stack(
        [pil_to_tensor(row) for row in pictures[start:stop][camera]]
    )
