"""Observations -> one context vector, computed once for each decision.

Legend: B batch, T observation steps, D width, C/H/W camera channels, height, width.
"""

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
    """A 1x1 convolution on each of two maps, then PointsAndMean of both: maps (B, C_i, h_i, w_i) -> (B, 4K + 2 x 64).

    dropout: share of the maps' channels that are set to zero in training.
    """

    def __init__(self, channels: tuple[int, int], keypoints: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.mix = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in channels)
        self.pools = nn.ModuleList(PointsAndMean(64, keypoints) for _ in channels)

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:
        pooled = [
            pool(mix(self.dropout(m)).relu()) for pool, mix, m in zip(self.pools, self.mix, maps, strict=True)
        ]
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
    """Convolutions and spatial softmax: images (B, C, H, W) -> (B, D). `vision` says which convolutions, `View` what they see.

    With vision frozen it also takes maps of `FrozenBackbone.packed` (B, 1, 1, N) in place of the pictures: those of training
    are computed once (`data/feature_maps.py`).
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
            pretrained = config.pretrained_backbone_weights is not None
            self.trunk = FrozenBackbone(config.frozen_backbone, pretrained)
            self.pool = TwoMaps(self.trunk.map_channels, points, config.feature_dropout)
            size = 2 * (2 * points + 64)
        else:
            self.trunk, self.pool = resnet18_backbone(config, channels), SpatialSoftmax(512, points)
            size = 2 * points
        self.project = nn.Linear(size, config.width)
        self.channels_last = config.vision != "resnet18"
        self.view = View.of(config)

    def forward(self, images: Tensor, picture_size: tuple[int, int]) -> Tensor:
        """picture_size: (H, W) of the camera, which tells the shape of packed maps."""
        if isinstance(self.trunk, FrozenBackbone) and images.shape[1:3] == (1, 1):
            maps = images.to(self.project.weight.dtype)
            features = unpacked(maps, self.trunk.map_channels, self.view.size(picture_size))
        else:
            images = self.view(images, random=self.training)
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            features = self.trunk(images)
        return self.project(self.pool(features))


class ObservationEncoder(nn.Module):
    """All observation features and their history -> context (B, D)."""

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

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """observations: vectors (B, T, F) and cameras (B, T, C, H, W), normalised, or packed maps (B, T, 1, 1, N), and the task's
        vector (B, E) or (B, T, E), of which the newest counts -> (B, D)."""
        parts = [observations[name].flatten(1) for name in self.vectors]
        for i, name in enumerate(self.cameras):
            images = observations[name]
            encoder = self.camera_encoders[0 if self.shared else i]
            context = encoder(images.flatten(0, 1), self.picture_sizes[i])
            parts.append(context.view(len(images), -1))
        if self.task is not None:
            task = observations[OBS_TASK]
            parts.append(self.task(task if task.ndim == 2 else task[:, -1]))
        return self.mix(torch.cat(parts, -1))
