"""Decodes camera pictures into memory once, as uint8: training then never waits for a video decoder."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.video_utils import FrameTimestampError, decode_video_frames
from lerobot.utils.feature_utils import dataset_to_policy_features
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ebt_policy.data.open_dataset import episode_rows
from ebt_policy.errors import UserError
from ebt_policy.model.encoders import resized

BACKEND = (
    "pyav"  # the same pictures on every machine; runs of frames gain nothing from torchcodec's random access
)
BLOCK = 64  # frames at their own size that a thread holds while it makes them smaller: 0.3 GB at 480 x 640 in float32
TOLERANCE_S = (
    1e-4  # LeRobot's own: how far, in seconds, a picture may lie from the time stamp that asks for it
)

# (episode, first row, row behind the last) -> (rows, C, H, W) uint8
Reader = Callable[[int, int, int], Tensor]


def decode_cameras(
    meta: LeRobotDatasetMetadata,
    table: datasets.Dataset,
    cameras: Sequence[str],
    limit_gb: float,
    resize_shape: tuple[int, int] | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> dict[str, Tensor]:
    """Every frame of `table` (F rows): camera -> (F, C, H, W) uint8.

    limit_gb: bound on all cameras together, in 10^9 bytes. resize_shape: (H, W) of all of them, None: their own size;
    resized by the encoder's own function, so the only difference to resizing there is the rounding to uint8.
    tolerance_s: how far a picture of a video may lie from its row's time stamp. Raises UserError: beyond the bound
    (with the size needed, before decoding), for a depth camera, for pictures that cannot be decoded (camera and
    episode), and for pictures of another size than meta/info.json declares.
    """
    if not cameras:
        return {}
    for camera in set(cameras) & set(meta.depth_keys):
        raise UserError(f"{camera} is a depth camera: pictures must have 8 bits a channel. Leave it out.")
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
            read = picture_reader(meta, table, camera, tolerance_s)
            declared = features[camera].shape
            spans = list(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True))
            jobs = [
                pool.submit(_decode, read, declared, resize_shape, camera, int(episodes[a]), a, b)
                for a, b in spans
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


def picture_reader(
    meta: LeRobotDatasetMetadata, table: datasets.Dataset, camera: str, tolerance_s: float = TOLERANCE_S
) -> Reader:
    """Reads pictures of one camera, wherever they are stored: in videos or in the table."""
    if camera in meta.video_keys:
        return _video_reader(meta, table, camera, tolerance_s)
    return _image_reader(table, camera)


def wrong_size(declared: Sequence[int], found: Sequence[int]) -> str | None:
    """A message where pictures (C, H, W) are not as meta/info.json declares them (C, H, W), else None."""
    if tuple(declared) == tuple(found):
        return None
    (c, h, w), (c_found, h_found, w_found) = declared, found
    return (
        f"the stored pictures are {h_found} x {w_found} with {c_found} channels, meta/info.json declares {h} x {w} "
        f"with {c}."
    )


SIZE_REMEDY = "Correct this feature's shape in meta/info.json: the policy expects that size on the robot."


def _decode(
    read: Reader,
    declared: Sequence[int],
    resize_shape: tuple[int, int] | None,
    camera: str,
    episode: int,
    start: int,
    stop: int,
) -> Tensor:
    """Rows start to stop of one episode, (rows, C, H, W) uint8."""
    blocks = [range(start, stop)]
    if resize_shape is not None:
        blocks = [range(start, stop)[i : i + BLOCK] for i in range(0, stop - start, BLOCK)]
    parts: list[Tensor] = []
    for block in blocks:
        try:
            pictures = read(episode, block.start, block.stop)
        except FrameTimestampError as error:
            raise UserError(
                f"{camera}, episode {episode}: the video has no picture close enough to some time stamps. Take the "
                "nearest one where it is at most, say, 20 ms away: --set dataset.tolerance_s=0.02 (`ebt-policy doctor` "
                "tells how far they are), or leave the episode out."
            ) from error
        except Exception as error:  # decoders raise many kinds; the user needs the place
            raise UserError(
                f"{camera}, episode {episode}: its pictures cannot be decoded. Copy or record it again, or "
                f"leave it out. Cause: {error}"
            ) from error
        if message := wrong_size(declared, pictures.shape[1:]):
            raise UserError(f"{camera}, episode {episode}: {message} {SIZE_REMEDY}")
        parts.append(pictures if resize_shape is None else _resized_uint8(pictures, resize_shape))
    return torch.cat(parts)


def _resized_uint8(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, C, H, W) uint8 -> (F, C, h, w) uint8; torchvision's own uint8 resizing also rounds its weights."""
    return resized(pictures.to(torch.float32), size).round_().to(torch.uint8)


def _video_reader(
    meta: LeRobotDatasetMetadata, table: datasets.Dataset, camera: str, tolerance_s: float
) -> Reader:
    timestamps = table.select_columns("timestamp").with_format("numpy")[:]["timestamp"]

    def read(episode: int, start: int, stop: int) -> Tensor:
        offset = episode_rows(meta)[episode][f"videos/{camera}/from_timestamp"]
        path = meta.root / meta.get_video_file_path(episode, camera)
        wanted = [offset + seconds for seconds in timestamps[start:stop].tolist()]
        return decode_video_frames(path, wanted, tolerance_s, BACKEND, return_uint8=True)

    return read


def _image_reader(table: datasets.Dataset, camera: str) -> Reader:
    pictures = table.select_columns([camera])
    return lambda episode, start, stop: torch.stack(
        [pil_to_tensor(picture) for picture in pictures[start:stop][camera]]
    )
