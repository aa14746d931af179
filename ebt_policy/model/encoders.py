"""Observations -> one context vector, and tokens of the cameras if wanted, computed once for each decision.

Legend: B batch, T observation steps, D width, K image points of a camera, N tokens of width E, C/H/W camera channels, height, width.
"""

from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.language.encoders import OBS_TASK
from ebt_policy.model.augmentation import View
from ebt_policy.model.vision_frozen import FrozenBackbone, unpacked
from ebt_policy.model.vision_small import CHANNELS, small_backbone

TASK_WIDTH = (
    64  # numbers that a task's vector is projected to, so that its hundreds do not outweigh a state of a few
)
TOKEN_WIDTH = 64  # E below


class Encoded(NamedTuple):
    """What a policy knows of its observations: a context vector (B, D), and tokens (B, N, E) of the cameras if wanted."""

    vector: Tensor
    tokens: Tensor | None


class SpatialSoftmax(nn.Module):
    """Expected image coordinates of K learned heat maps (Finn et al., arXiv 1509.06113): (B, C, h, w) -> (B, 2K).

    tokens: whether it also gives a token for each heat map, made of the features under it and its coordinates.
    mean: whether the mean of each channel goes beside the coordinates: then (B, 2K + C).
    """

    def __init__(self, channels: int, keypoints: int, tokens: bool = False, mean: bool = True) -> None:
        super().__init__()
        self.mean, self.size = mean, 2 * keypoints + mean * channels
        self.heat = nn.Conv2d(channels, keypoints, kernel_size=1)
        self.token = nn.Linear(channels + 2, TOKEN_WIDTH) if tokens else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coordinates (and means) of maps (B, C, h, w), and tokens (B, K, E)."""
        heat = self.heat(features)  # (B, K, h, w)
        h, w = heat.shape[-2:]
        attention = heat.flatten(2).softmax(-1)
        maps = attention.view_as(heat)
        rows = torch.linspace(-1, 1, h, device=heat.device)
        columns = torch.linspace(-1, 1, w, device=heat.device)
        y = (maps.sum(3) * rows).sum(-1)
        x = (maps.sum(2) * columns).sum(-1)
        pooled = torch.cat([x, y, *([features.mean((2, 3))] if self.mean else [])], -1)
        if self.token is None:
            return pooled, None
        under = attention @ features.flatten(2).transpose(1, 2)  # (B, K, C)
        return pooled, self.token(torch.cat([under, x[..., None], y[..., None]], -1))


class TwoMaps(nn.Module):
    """A 1x1 convolution on each of two maps, then SpatialSoftmax of both: maps (B, C_i, h_i, w_i) -> (B, 4K + 2 x 64).

    dropout: share of the maps' channels that are set to zero in training.
    """

    def __init__(self, channels: tuple[int, int], keypoints: int, dropout: float, tokens: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.mix = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in channels)
        self.pools = nn.ModuleList(SpatialSoftmax(64, keypoints, tokens) for _ in channels)
        self.size = 2 * (2 * keypoints + 64)

    def forward(self, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        """As SpatialSoftmax's, of both maps: tokens (B, 2K, E)."""
        both = [
            pool(mix(self.dropout(m)).relu()) for pool, mix, m in zip(self.pools, self.mix, maps, strict=True)
        ]
        pooled, tokens = zip(*both, strict=True)
        return torch.cat(pooled, -1), None if tokens[0] is None else torch.cat(tokens, 1)


def resnet18_backbone(config: ChunkPolicyConfig, channels: int) -> nn.Sequential:
    """ResNet-18 without pooling and classifier: (B, channels, H, W) -> (B, 512, H / 32, W / 32), rounded up."""
    frozen = config.backbone_norm == "frozen_batch"
    norm = FrozenBatchNorm2d if frozen else lambda width: nn.GroupNorm(width // 16, width)
    resnet = torchvision.models.resnet18(weights=config.pretrained_backbone_weights, norm_layer=norm)
    if channels != 3:
        resnet.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(*list(resnet.children())[:-2])


class CameraEncoder(nn.Module):
    """Convolutions and spatial softmax: images (B, C, H, W) -> (B, D), and tokens (B, K, E) if wanted. `vision` says which
    convolutions, `View` what they see.

    With vision frozen it also takes maps of `FrozenBackbone.packed` (B, 1, 1, N) in place of the pictures: those of training
    are computed once (`data/feature_maps.py`).
    """

    def __init__(self, config: ChunkPolicyConfig, channels: int) -> None:
        super().__init__()
        points, tokens = config.spatial_softmax_keypoints, config.has_tokens
        self.trunk: nn.Module
        self.pool: SpatialSoftmax | TwoMaps
        if config.vision == "small":
            self.trunk, self.pool = small_backbone(channels), SpatialSoftmax(CHANNELS[-1], points, tokens)
        elif config.vision == "frozen":
            pretrained = config.pretrained_backbone_weights is not None
            self.trunk = FrozenBackbone(config.frozen_backbone, pretrained)
            self.pool = TwoMaps(self.trunk.map_channels, points, config.feature_dropout, tokens)
        else:
            self.trunk = resnet18_backbone(config, channels)
            self.pool = SpatialSoftmax(512, points, tokens, mean=False)
        self.project = nn.Linear(self.pool.size, config.width)
        self.channels_last = config.vision != "resnet18"
        self.view = View.of(config)

    def forward(self, images: Tensor, picture_size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """picture_size: (H, W) of the camera, which tells the shape of packed maps."""
        if isinstance(self.trunk, FrozenBackbone) and images.shape[1:3] == (1, 1):
            maps = images.to(self.project.weight.dtype)
            features = unpacked(maps, self.trunk.map_channels, self.view.size(picture_size))
        else:
            images = self.view(images, random=self.training)
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            features = self.trunk(images)
        pooled, tokens = self.pool(features)
        return self.project(pooled), tokens


class ObservationEncoder(nn.Module):
    """All observation features and their history -> context vector (B, D), and tokens of the cameras (B, N, E) if wanted."""

    def __init__(self, config: ChunkPolicyConfig) -> None:
        super().__init__()
        features = config.observation_features()
        self.vectors = [name for name, shape in features.items() if len(shape) == 1 and name != OBS_TASK]
        self.cameras = [name for name, shape in features.items() if len(shape) == 3]
        steps, width = config.n_obs_steps, config.width
        self.picture_sizes = [(features[name][1], features[name][2]) for name in self.cameras]
        size = steps * sum(features[name][0] for name in self.vectors)
        size += steps * width * len(self.cameras)
        # Only where there is one: checkpoints without it keep their tensors.
        self.task = nn.Linear(config.task_size, TASK_WIDTH) if OBS_TASK in features else None
        size += TASK_WIDTH if self.task is not None else 0
        self.shared = not config.separate_encoder_per_camera
        encoders = self.cameras[:1] if self.shared else self.cameras
        self.camera_encoders = nn.ModuleList(CameraEncoder(config, features[name][0]) for name in encoders)
        self.mix = nn.Sequential(
            nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.token_position: nn.Parameter | None = None  # tells tokens of cameras, times and heat maps apart
        if config.has_tokens:
            maps = 2 if config.vision == "frozen" else 1
            count = steps * len(self.cameras) * maps * config.spatial_softmax_keypoints
            self.token_position = nn.Parameter(0.02 * torch.randn(count, TOKEN_WIDTH))
            self.token_norm = nn.LayerNorm(TOKEN_WIDTH)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """The vector of `encoded` alone (B, D)."""
        return self.encoded(observations).vector

    def encoded(self, observations: dict[str, Tensor]) -> Encoded:
        """observations: vectors (B, T, F) and cameras (B, T, C, H, W), normalised, or packed maps (B, T, 1, 1, M), and the task's
        vector (B, U) or (B, T, U), of which the newest counts."""
        parts = [observations[name].flatten(1) for name in self.vectors]
        tokens: list[Tensor] = []
        for i, name in enumerate(self.cameras):
            images = observations[name]
            encoder = self.camera_encoders[0 if self.shared else i]
            context, found = encoder(images.flatten(0, 1), self.picture_sizes[i])
            parts.append(context.view(len(images), -1))
            if found is not None:
                tokens.append(found.unflatten(0, images.shape[:2]).flatten(1, 2))  # (B, T K, E)
        if self.task is not None:
            task = observations[OBS_TASK]
            parts.append(self.task(task if task.ndim == 2 else task[:, -1]))
        context = self.mix(torch.cat(parts, -1))
        if self.token_position is None:
            return Encoded(context, None)
        return Encoded(context, self.token_norm(torch.cat(tokens, 1) + self.token_position))
