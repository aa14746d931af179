"""Decodes camera pictures once, as uint8: training then never waits for a video decoder."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Self

import datasets
import numpy as np
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.video_utils import FrameTimestampError, decode_video_frames
from lerobot.utils.feature_utils import dataset_to_policy_features
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ebt_policy.data.frame_cache import (
    EpisodeFile,
    FramesOnDisk,
    all_complete,
    cache_folder,
    check_space,
    episode_files,
    making,
    mark_used,
    new_file,
)
from ebt_policy.data.open_dataset import episode_rows
from ebt_policy.errors import UserError
from ebt_policy.model.augmentation import resized

BACKEND = (
    "pyav"  # the same pictures on every machine; runs of frames gain nothing from torchcodec's random access
)
BLOCK = 16  # frames at their own size that a thread holds in float32: 60 MB at 480 x 640
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
) -> dict[str, Tensor] | dict[str, FramesOnDisk]:
    """Every frame of `table` (F rows): camera -> (F, C, H, W) uint8, in memory if they fit, else on disk.

    limit_gb: most that all cameras together may take in memory, in 10^9 bytes. resize_shape: (H, W) of all of them,
    None: their own size; resized by the encoder's own function, so the only difference to resizing there is the rounding
    to uint8. tolerance_s: how far a picture of a video may lie from its row's time stamp. Raises UserError: where the
    disk has not enough space (before decoding), for a depth camera, for pictures that cannot be decoded (camera and
    episode), and for pictures of another size than meta/info.json declares.
    """
    if not cameras:
        return {}
    shapes = camera_shapes(meta, cameras, resize_shape)
    spans = episode_spans(table)
    decoders = {key: CameraDecoder.of(meta, table, key, resize_shape, tolerance_s) for key in cameras}
    needed = len(table) * sum(math.prod(shape) for shape in shapes.values())
    if needed <= limit_gb * 1e9:
        frames = {key: torch.empty((len(table), *shapes[key]), dtype=torch.uint8) for key in cameras}

        def keep(camera: str, episode: int, start: int, stop: int) -> None:
            for first, pictures in decoders[camera].blocks(episode, start, stop):
                frames[camera][first : first + len(pictures)] = pictures

        _decode({key: [partial(keep, key, *span) for span in spans] for key in cameras})
        return frames
    files = {key: episode_files(meta, table, key, shapes[key], spans, tolerance_s) for key in cameras}

    def write(camera: str, target: EpisodeFile) -> None:
        with new_file(target.path) as file:
            for _, pictures in decoders[camera].blocks(target.episode, target.start, target.stop):
                file.write(pictures.numpy().data)

    if not all_complete(file for part in files.values() for file in part):
        with making(meta.repo_id):
            missing = {key: [file for file in files[key] if not file.complete] for key in cameras}
            check_space(file for part in missing.values() for file in part)
            if any(missing.values()):
                Console().print(
                    f"Pictures need {needed / 1e9:.3g} GB, in memory they may take {limit_gb:g} (image_cache_gb): they are "
                    f"decoded once, kept in {cache_folder()} and read from there.",
                    soft_wrap=True,
                )
            _decode({key: [partial(write, key, file) for file in part] for key, part in missing.items()})
    mark_used(file for part in files.values() for file in part)
    lengths = [stop - start for _, start, stop in spans]
    return {key: FramesOnDisk([file.path for file in files[key]], lengths, shapes[key]) for key in cameras}


def camera_shapes(
    meta: LeRobotDatasetMetadata, cameras: Sequence[str], resize_shape: tuple[int, int] | None
) -> dict[str, tuple[int, int, int]]:
    """camera -> (C, H, W) of its pictures after resizing. Raises UserError for a depth camera."""
    for camera in set(cameras) & set(meta.depth_keys):
        raise UserError(f"{camera} is a depth camera: pictures must have 8 bits a channel. Leave it out.")
    declared = _declared(meta, cameras)
    return {key: (c, *(resize_shape or (height, width))) for key, (c, height, width) in declared.items()}


def _declared(meta: LeRobotDatasetMetadata, cameras: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """camera -> (C, H, W) in meta/info.json."""
    features = dataset_to_policy_features({key: meta.features[key] for key in cameras})
    return {key: (f.shape[0], f.shape[1], f.shape[2]) for key, f in features.items()}


def episode_spans(table: datasets.Dataset) -> list[tuple[int, int, int]]:
    """(episode, first row, row behind the last) of each episode in the table."""
    numbers = table.select_columns("episode_index").with_format("numpy")[:]["episode_index"]
    borders = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1)).tolist()
    return [(int(numbers[a]), a, b) for a, b in pairwise(borders)]


def _decode(jobs: Mapping[str, Sequence[Callable[[], None]]]) -> None:
    """Runs the jobs of each camera, one for each episode, in parallel and with progress; the first error ends them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for camera, calls in jobs.items():
            running = [pool.submit(call) for call in calls]
            bar = progress.add_task(f"decoding {camera} (episodes)", total=len(running))
            try:
                for job in running:
                    job.result()
                    progress.advance(bar)
            finally:
                for job in running:
                    job.cancel()


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


@dataclass(frozen=True)
class CameraDecoder:
    """Reads the pictures of a camera in blocks, so that a thread never holds more than one of them."""

    camera: str
    read: Reader
    declared: Sequence[int]
    """(C, H, W) in meta/info.json."""
    resize_shape: tuple[int, int] | None

    @classmethod
    def of(
        cls,
        meta: LeRobotDatasetMetadata,
        table: datasets.Dataset,
        camera: str,
        resize_shape: tuple[int, int] | None,
        tolerance_s: float,
    ) -> Self:
        read = picture_reader(meta, table, camera, tolerance_s)
        return cls(camera, read, _declared(meta, [camera])[camera], resize_shape)

    def blocks(self, episode: int, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """First row and pictures (b, C, H, W) uint8 of each block of an episode's rows."""
        rows = BLOCK if self.resize_shape else 4 * BLOCK  # bytes, not float32
        for first in range(start, stop, rows):
            try:
                pictures = self.read(episode, first, min(first + rows, stop))
            except FrameTimestampError as error:
                raise UserError(
                    f"{self.camera}, episode {episode}: the video has no picture close enough to some time stamps. Take "
                    "the nearest one where it is at most, say, 20 ms away: --set dataset.tolerance_s=0.02 (`ebt-policy "
                    "doctor` tells how far they are), or leave the episode out."
                ) from error
            except Exception as error:  # decoders raise many kinds; the user needs the place
                raise UserError(
                    f"{self.camera}, episode {episode}: its pictures cannot be decoded. Copy or record it again, or "
                    f"leave it out. Cause: {error}"
                ) from error
            if message := wrong_size(self.declared, pictures.shape[1:]):
                raise UserError(f"{self.camera}, episode {episode}: {message} {SIZE_REMEDY}")
            yield (
                first,
                pictures if self.resize_shape is None else _resized_uint8(pictures, self.resize_shape),
            )


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
