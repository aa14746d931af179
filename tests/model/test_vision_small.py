"""The small camera encoder: what it gives, how training pictures are moved, and that older checkpoints are not touched."""

import json
from pathlib import Path

import pytest
import torch
from core_fixtures import SHAPES, make_batch, make_policy
from lerobot.configs.policies import PreTrainedConfig

import ebt_policy
from ebt_policy.model.augmentation import random_shift
from ebt_policy.model.encoders import CameraEncoder, SpatialSoftmax
from ebt_policy.model.noise import Noise
from ebt_policy.model.vision_small import small_backbone

FEATURES = tuple(SHAPES)


@pytest.mark.parametrize(("size", "maps"), [((84, 84), (11, 11)), ((96, 96), (12, 12)), ((40, 48), (5, 6))])
def test_maps_are_an_eighth_of_the_picture(size: tuple[int, int], maps: tuple[int, int]) -> None:
    assert small_backbone(4)(torch.rand(2, 4, *size)).shape == (2, 64, *maps)


def test_a_shifted_picture_is_a_window_of_the_picture_with_its_edge_repeated() -> None:
    pictures = torch.rand(20, 3, 9, 12)
    padded = torch.nn.functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
    windows = [padded[:, :, i : i + 9, j : j + 12] for i in range(5) for j in range(5)]
    shifted = random_shift(pictures, 2)
    found = torch.stack([(window == shifted).all((1, 2, 3)) for window in windows])  # (25, 20)
    assert found.any(0).all()
    assert len(found.float().argmax(0).unique()) > 5  # each picture has its own shift


def test_no_shift_leaves_pictures_as_they_are() -> None:
    pictures = torch.rand(3, 3, 9, 12)
    assert torch.equal(random_shift(pictures, 0), pictures)


@pytest.mark.parametrize(("shift", "equal"), [(0, True), (4, False)])
def test_pictures_are_moved_in_training_only(shift: int, equal: bool) -> None:
    config = make_policy(features=FEATURES, vision="small", crop_shape=None, random_shift=shift).config
    encoder, pictures = CameraEncoder(config, 3), torch.rand(4, 3, 40, 48)
    whole = encoder.eval()(pictures, (40, 48))[0]
    torch.testing.assert_close(encoder(pictures, (40, 48))[0], whole, rtol=0, atol=0)
    assert torch.allclose(encoder.train()(pictures, (40, 48))[0], whole, atol=1e-6) == equal


def test_points_follow_what_moves_and_the_mean_does_not() -> None:
    pool = SpatialSoftmax(1, 1)
    torch.nn.init.constant_(pool.heat.weight, 20)
    maps = torch.zeros(2, 1, 5, 9)
    maps[0, 0, 1, 2] = maps[1, 0, 3, 6] = 1
    x, y, mean = pool(maps)[0].T
    torch.testing.assert_close(x, torch.tensor([-0.5, 0.5]), atol=1e-3, rtol=0)
    torch.testing.assert_close(y, torch.tensor([-0.5, 0.5]), atol=1e-3, rtol=0)
    torch.testing.assert_close(mean, torch.full((2,), 1 / 45))


@pytest.mark.parametrize("kind", ["ebt", "matched_baseline"])
def test_a_policy_learns_decides_and_is_saved_with_it(kind: str, tmp_path: Path) -> None:
    policy = make_policy(kind, FEATURES, vision="small", crop_shape=None)
    batch = make_batch(3, FEATURES)
    for name, parameter in policy.named_parameters():
        if "modulate" in name:  # zero at the start of training: the observation then has no effect yet
            torch.nn.init.normal_(parameter, std=0.1)
    loss, _ = policy.train()(batch)
    loss.backward()
    gradients = {name: p.grad for name, p in policy.named_parameters() if "camera_encoders" in name}
    assert gradients and all(g is not None and g.abs().sum() > 0 for g in gradients.values())
    chunk = policy.eval().decide(batch, Noise.from_seeds(range(3))).chunk
    policy.save_pretrained(tmp_path)
    again = type(policy).from_pretrained(tmp_path)
    assert again.config.vision == "small"
    torch.testing.assert_close(again.decide(batch, Noise.from_seeds(range(3))).chunk, chunk, rtol=0, atol=0)


def test_a_config_from_before_this_option_is_a_resnet18(tmp_path: Path) -> None:
    make_policy(features=FEATURES).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    assert saved.pop("vision") == "resnet18"
    saved.pop("random_shift")
    path.write_text(json.dumps(saved))
    config = PreTrainedConfig.from_pretrained(tmp_path)
    assert isinstance(config, ebt_policy.EBTConfig) and config.vision == "resnet18"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision": "vit"}, "vision must be one of"),
        ({"random_shift": -1}, "random_shift must be 0 or more"),
        (
            {
                "vision": "small",
                "backbone_norm": "frozen_batch",
                "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
            },
            "set vision='resnet18'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(features=FEATURES, **options)
