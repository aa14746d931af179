"""A convolutional encoder for pictures of 84 to 128 pixels, trained from scratch: cheap enough for a CPU.

Legend: B batch, H/W height, width.
"""

from torch import nn

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
