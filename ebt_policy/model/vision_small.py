"""A convolutional encoder for pictures of 84 to 128 pixels, trained from scratch: cheap enough for a CPU.

Legend: B batch, C/H/W channels, height, width; h, w of the feature map, K points.
"""

import torch
from torch import Tensor, nn

CHANNELS = (32, 48, 64, 64, 64)
STRIDES = (2, 2, 2, 1, 1)  # maps of 12 x 12 for pictures of 96 x 96


def small_backbone(channels: int) -> nn.Sequential:
    """Five convolutions: (B, channels, H, W) -> (B, 64, H / 8, W / 8), rounded up."""
    layers: list[nn.Module] = []
    before = channels
    for width, stride in zip(CHANNELS, STRIDES, strict=True):
        layers += [nn.Conv2d(before, width, 3, stride=stride, padding=1), nn.ReLU()]
        before = width
    return nn.Sequential(*layers)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Each picture of (B, C, H, W) moved by up to `pixels` in both directions, its edge repeated (DrQ, arXiv 2004.13649)."""
    batch, _, height, width = images.shape

    def moved(length: int) -> Tensor:
        offset = torch.randint(-pixels, pixels + 1, (batch, 1), device=images.device)
        return (offset + torch.arange(length, device=images.device)).clamp(0, length - 1)

    return picked(images, moved(height), moved(width))


def picked(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows (B, h) and columns (B, w) of each picture of (B, C, H, W) -> (B, C, h, w): one gather, no loop over the batch."""
    batch, channels = images.shape[:2]
    sample = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
