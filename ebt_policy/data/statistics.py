"""Statistics of a feature as LeRobot's normaliser reads them: min, max, mean, std, count and quantiles."""

import numpy as np
import torch
from lerobot.datasets.compute_stats import DEFAULT_QUANTILES, get_feature_stats
from torch import Tensor

from ebt_policy.data.frame_cache import FramesOnDisk

PICTURES = 1000  # at most, evenly spaced: more change the third digit, and cost seconds
BLOCK = 64  # pictures counted at a time

Statistics = dict[str, np.ndarray]


def vector_statistics(values: Tensor) -> Statistics:
    """Of frames (F, D), each entry (D,); of numbers (F,), each entry (1,)."""
    # In double precision: LeRobot takes the variance as a difference of squares.
    array = values.numpy().astype(np.float64)
    return get_feature_stats(array, axis=0, keepdims=array.ndim == 1)


def picture_statistics(pictures: Tensor | FramesOnDisk) -> Statistics:
    """Of pictures (F, C, H, W) uint8, for each channel and in 0..1 as policies see them: each entry (C, 1, 1).

    Counted from up to PICTURES of them, evenly spaced; exact for those.
    """
    frames, channels = pictures.shape[:2]
    chosen = torch.linspace(0, frames - 1, min(frames, PICTURES)).long()
    counts = torch.zeros(channels, 256, dtype=torch.int64)  # pixels of each value
    for rows in chosen.split(BLOCK):
        block = pictures[rows]
        for channel in range(channels):
            counts[channel] += torch.bincount(block[:, channel].flatten().long(), minlength=256)
    share = counts.double().numpy() / counts[0].sum().item()  # (C, 256)
    values, reached = np.arange(256) / 255, share.cumsum(1)
    mean = share @ values
    found = {
        "min": values[(share > 0).argmax(1)],
        "max": values[255 - (share[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt((share * (values - mean[:, None]) ** 2).sum(1)),
    }
    found |= {f"q{round(100 * q):02d}": values[(reached >= q - 1e-12).argmax(1)] for q in DEFAULT_QUANTILES}
    return {name: value.reshape(channels, 1, 1) for name, value in found.items()} | {
        "count": np.array([frames])
    }
