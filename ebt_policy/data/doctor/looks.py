"""What a few pictures of each episode look like, in numbers: the material of `picture_checks` and of the contact sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ebt_policy.data.camera_frames import episode_spans, picture_reader

EPISODES = 60  # looked at of each camera, spread evenly: a picture of a video takes about 20 ms
MOMENTS = 5  # of each episode, spread evenly
BLOCK = 8  # pixels: side of the squares that are compared between pictures
DARK, BRIGHT = 10, 245  # of 255
THUMBNAIL = 96  # pixels, height
_QUANTILES = torch.linspace(0.05, 0.95, 10)


@dataclass(frozen=True)
class Look:
    """One camera in one episode, at n moments. Levels are of 0 to 255.

    rows (n,): of the table. dark, bright (n,): share of pixels that are black, and that are white in all channels. blocks
    (n, C, h, w): means of squares of BLOCK pixels. detail: RMS of what is finer than 4 pixels, as a part of the picture's contrast;
    the median of the moments, NaN where all are flat. colours (C, q): quantiles of each channel. thumbnail: of the middle moment, JPEG.
    """

    episode: int
    rows: np.ndarray
    dark: np.ndarray
    bright: np.ndarray
    blocks: np.ndarray
    detail: float
    colours: np.ndarray
    thumbnail: bytes


def looks(
    meta: LeRobotDatasetMetadata, table: datasets.Dataset, camera: str, most: int = EPISODES
) -> Iterator[Look]:
    """Looks at `most` episodes, spread evenly. Those that cannot be read are left out: `camera_checks.files` tells them."""
    spans = episode_spans(table)
    read = picture_reader(meta, table, camera, 0.5 / meta.fps)
    for i in np.unique(np.linspace(0, len(spans) - 1, most).astype(int)):
        episode, start, stop = spans[i]
        rows = np.unique(np.linspace(start, stop - 1, MOMENTS).astype(int))
        try:
            pictures = torch.cat([read(episode, int(row), int(row) + 1) for row in rows])
        except Exception:  # told by `files` and `pictures`
            continue
        yield _look(episode, rows, pictures)


def _look(episode: int, rows: np.ndarray, pictures: Tensor) -> Look:
    """pictures (n, C, H, W) uint8."""
    levels = pictures.float()
    small = avg_pool2d(levels, BLOCK, ceil_mode=True)
    grey = levels.mean(1, keepdim=True)
    coarse = interpolate(avg_pool2d(grey, 4, ceil_mode=True), grey.shape[-2:], mode="bilinear")
    contrast = grey.flatten(1).std(1)
    finer = (grey - coarse).flatten(1).square().mean(1).sqrt()
    textured = contrast > 1
    colours = torch.quantile(small.permute(1, 0, 2, 3).flatten(1), _QUANTILES, 1).T
    return Look(
        episode=episode,
        rows=rows,
        dark=(levels.amax(1) <= DARK).float().mean((1, 2)).numpy(),
        bright=(levels.amin(1) >= BRIGHT).float().mean((1, 2)).numpy(),
        blocks=small.numpy(),
        detail=float((finer / contrast)[textured].median()) if textured.any() else np.nan,
        colours=colours.numpy(),
        thumbnail=_jpeg(pictures[len(pictures) // 2]),
    )


def _jpeg(picture: Tensor) -> bytes:
    """(C, H, W) uint8 -> a small JPEG."""
    array = picture.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array[..., :3])
    image.thumbnail((4 * THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
