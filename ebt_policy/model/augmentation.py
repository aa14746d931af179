"""What the convolutions of a camera encoder get of a picture: resized, cropped, and in training moved and recoloured at random.

Legend: B pictures, C/H/W channels, height, width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import functional as transforms

from ebt_policy.configuration_chunk import ChunkPolicyConfig


@dataclass(frozen=True)
class View:
    """Sizes as (height, width) in pixels, None: as they are.

    Pictures are resized to `resize` if they have another size, then cropped: at random in training, in the centre otherwise,
    as in Diffusion Policy (arXiv 2303.04137, section 3.2). In training they are then moved by up to `shift` pixels, and
    each channel is scaled and offset by up to `colour`.
    """

    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    shift: int = 0
    colour: float = 0.0

    @classmethod
    def of(cls, config: ChunkPolicyConfig) -> View:
        """Colours only with frozen, whose pictures are not normalised."""
        colour = config.random_colour if config.vision == "frozen" else 0.0
        return cls(config.resize_shape, config.crop_shape, config.random_shift, colour)

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what is left of a picture of that size."""
        return self.crop or self.resize or picture

    def __call__(self, images: Tensor, *, random: bool, generator: torch.Generator | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w). random: as in training; generator: on the device of the pictures."""
        if self.resize:
            images = resized(images, self.resize)
        if self.crop and not random:
            return transforms.center_crop(images, list(self.crop))
        if self.crop:
            images = random_crop(images, self.crop, generator)
        if random and self.shift:
            images = random_shift(images, self.shift, generator)
        if random and self.colour:
            images = random_colour(images, self.colour, generator)
        return images


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Floating-point (B, C, H, W) -> (B, C, h, w), antialiased; unchanged if they have that size.

    A weighted mean of pixels with weights that add up to one, so it commutes with normalisation of each channel, and
    statistics of the large pictures serve the small ones. The aspect ratio becomes that of `size`.
    """
    if images.shape[-2:] == size:
        return images
    return transforms.resize(images, list(size), transforms.InterpolationMode.BILINEAR, antialias=True)


def random_crop(images: Tensor, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
    """One crop (h, w) for each image of (B, C, H, W)."""
    batch, _, *full = images.shape

    def part(length: int, wanted: int) -> Tensor:
        first = torch.randint(0, length - wanted + 1, (batch, 1), device=images.device, generator=generator)
        return first + torch.arange(wanted, device=images.device)

    return picked(images, *(part(length, wanted) for length, wanted in zip(full, size, strict=True)))


def random_shift(images: Tensor, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Each picture of (B, C, H, W) moved by up to `pixels` in both directions, its edge repeated (DrQ, arXiv 2004.13649)."""
    batch, _, height, width = images.shape

    def moved(length: int) -> Tensor:
        offset = torch.randint(-pixels, pixels + 1, (batch, 1), device=images.device, generator=generator)
        return (offset + torch.arange(length, device=images.device)).clamp(0, length - 1)

    return picked(images, moved(height), moved(width))


def random_colour(images: Tensor, strength: float, generator: torch.Generator | None = None) -> Tensor:
    """Pictures (B, C, H, W) in 0..1, each channel times 1 +- strength, plus +- strength / 2, kept in 0..1."""
    drawn = torch.rand((2, *images.shape[:2], 1, 1), device=images.device, generator=generator) * 2 - 1
    return (images * (1 + strength * drawn[0]) + strength / 2 * drawn[1]).clamp(0, 1)


def picked(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows (B, h) and columns (B, w) of each picture of (B, C, H, W) -> (B, C, h, w): one gather, no loop over the batch."""
    batch, channels = images.shape[:2]
    sample = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
