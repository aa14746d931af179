"""Observations -> one context vector, computed once for each decision.

Legend: B batch, T observation steps, D width, C/H/W camera channels, height, width.
"""

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms import functional as transforms

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.model.vision_frozen import MAP_CHANNELS, FrozenBackbone
from ebt_policy.model.vision_small import CHANNELS, picked, random_shift, small_backbone


class SpatialSoftmax(nn.Module):
    """Expected image coordinates of K learned heat maps (Finn et al., arXiv 1509.06113): (B, C, h, w) -> (B, 2K)."""

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.heat = nn.Conv2d(channels, keypoints, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        heat = self.heat(features)  # (B, K, h, w)
        h, w = heat.shape[-2:]
        attention = heat.flatten(2).softmax(-1).view_as(heat)
        rows = torch.linspace(-1, 1, h, device=heat.device)
        columns = torch.linspace(-1, 1, w, device=heat.device)
        y = (attention.sum(3) * rows).sum(-1)
        x = (attention.sum(2) * columns).sum(-1)
        return torch.cat([x, y], -1)


class PointsAndMean(SpatialSoftmax):
    """The image coordinates beside the mean of each channel: (B, C, h, w) -> (B, 2K + C)."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([super().forward(features), features.mean((2, 3))], -1)


class TwoMaps(nn.Module):
    """One convolution on each of two maps, then PointsAndMean of both: maps (B, C_i, h_i, w_i) -> (B, 4K + 2 x 64)."""

    def __init__(self, channels: tuple[int, int], keypoints: int) -> None:
        super().__init__()
        self.mix = nn.ModuleList(nn.Conv2d(c, 64, 3, padding=1) for c in channels)
        self.pools = nn.ModuleList(PointsAndMean(64, keypoints) for _ in channels)

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:
        pooled = [pool(mix(m).relu()) for pool, mix, m in zip(self.pools, self.mix, maps, strict=True)]
        return torch.cat(pooled, -1)


def resnet18_backbone(config: ChunkPolicyConfig, channels: int) -> nn.Sequential:
    """ResNet-18 without pooling and classifier: (B, channels, H, W) -> (B, 512, H / 32, W / 32), rounded up."""
    frozen = config.backbone_norm == "frozen_batch"
    norm = FrozenBatchNorm2d if frozen else lambda width: nn.GroupNorm(width // 16, width)
    resnet = torchvision.models.resnet18(weights=config.pretrained_backbone_weights, norm_layer=norm)
    if channels != 3:
        resnet.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(*list(resnet.children())[:-2])


class CameraEncoder(nn.Module):
    """Convolutions and spatial softmax: images (B, C, H, W) -> (B, D). `vision` says which convolutions.

    Pictures are resized to `resize_shape` if they have another size (our training data are resized already), then
    cropped: at random in training, in the centre otherwise, as in Diffusion Policy (arXiv 2303.04137, section 3.2).
    With vision small and frozen they are moved by `random_shift` pixels in training.
    """

    def __init__(self, config: ChunkPolicyConfig, channels: int) -> None:
        super().__init__()
        points = config.spatial_softmax_keypoints
        self.trunk: nn.Module
        self.pool: nn.Module
        if config.vision == "small":
            self.trunk, self.pool = small_backbone(channels), PointsAndMean(CHANNELS[-1], points)
            size = 2 * points + CHANNELS[-1]
        elif config.vision == "frozen":
            self.trunk = FrozenBackbone(config.pretrained_backbone_weights is not None)
            self.pool = TwoMaps(MAP_CHANNELS, points)
            size = 2 * (2 * points + 64)
        else:
            self.trunk, self.pool = resnet18_backbone(config, channels), SpatialSoftmax(512, points)
            size = 2 * points
        self.project = nn.Linear(size, config.width)
        self.channels_last = config.vision != "resnet18"
        self.size = config.resize_shape
        self.crop = config.crop_shape
        self.shift = config.random_shift if config.vision != "resnet18" else 0

    def forward(self, images: Tensor) -> Tensor:
        if self.size:
            images = resized(images, self.size)
        if self.crop:
            images = (
                random_crop(images, self.crop)
                if self.training
                else transforms.center_crop(images, list(self.crop))
            )
        if self.training and self.shift:
            images = random_shift(images, self.shift)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.project(self.pool(self.trunk(images)))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Floating-point (B, C, H, W) -> (B, C, h, w), antialiased; unchanged if they have that size.

    A weighted mean of pixels with weights that add up to one, so it commutes with normalisation of each channel, and
    statistics of the large pictures serve the small ones. The aspect ratio becomes that of `size`.
    """
    if images.shape[-2:] == size:
        return images
    return transforms.resize(images, list(size), transforms.InterpolationMode.BILINEAR, antialias=True)


def random_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """One crop (h, w) for each image of (B, C, H, W)."""
    batch, _, *full = images.shape

    def part(length: int, wanted: int) -> Tensor:
        first = torch.randint(0, length - wanted + 1, (batch, 1), device=images.device)
        return first + torch.arange(wanted, device=images.device)

    return picked(images, *(part(length, wanted) for length, wanted in zip(full, size, strict=True)))


class ObservationEncoder(nn.Module):
    """All observation features and their history -> context (B, D)."""

    def __init__(self, config: ChunkPolicyConfig) -> None:
        super().__init__()
        features = config.observation_features()
        self.vectors = [name for name, shape in features.items() if len(shape) == 1]
        self.cameras = [name for name, shape in features.items() if len(shape) == 3]
        steps, width = config.n_obs_steps, config.width
        size = steps * sum(features[name][0] for name in self.vectors)
        size += steps * width * len(self.cameras)
        self.shared = not config.separate_encoder_per_camera
        encoders = self.cameras[:1] if self.shared else self.cameras
        self.camera_encoders = nn.ModuleList(CameraEncoder(config, features[name][0]) for name in encoders)
        self.mix = nn.Sequential(
            nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """observations: vectors (B, T, F) and cameras (B, T, C, H, W), normalised -> (B, D)."""
        parts = [observations[name].flatten(1) for name in self.vectors]
        for i, name in enumerate(self.cameras):
            images = observations[name]
            encoder = self.camera_encoders[0 if self.shared else i]
            parts.append(encoder(images.flatten(0, 1)).view(len(images), -1))
        return self.mix(torch.cat(parts, -1))
