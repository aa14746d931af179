"""Cameras: what is resized and cropped, where, and that it makes no difference where."""

import pytest
import torch
from core_fixtures import SHAPES, make_batch, make_policy

from ebt_policy.model.augmentation import resized
from ebt_policy.model.encoders import CameraEncoder
from ebt_policy.model.noise import Noise

FEATURES = tuple(SHAPES)
CAMERAS = FEATURES[2:]


def test_resizing_commutes_with_normalisation_and_stays_in_range() -> None:
    pictures = torch.randint(0, 256, (2, 3, 48, 64)) / 255
    mean, std = torch.rand(3, 1, 1), torch.rand(3, 1, 1) + 0.1
    small = resized(pictures, (20, 24))
    assert small.shape == (2, 3, 20, 24)
    torch.testing.assert_close(resized((pictures - mean) / std, (20, 24)), (small - mean) / std)
    assert small.min() >= 0 and small.max() <= 1 + 1e-6


def test_a_checkerboard_becomes_grey() -> None:
    """Without antialiasing half of its pixels would be lost, and which half depend on the position."""
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(1, 3, 64, 64)
    torch.testing.assert_close(resized(board, (16, 16)), torch.full((1, 3, 16, 16), 0.5), rtol=0, atol=0.02)


def test_pictures_of_the_right_size_are_left_as_they_are() -> None:
    pictures = torch.rand(1, 3, 24, 32)
    assert resized(pictures, (24, 32)) is pictures


@pytest.mark.parametrize("kind", ["ebt", "matched_baseline"])
def test_a_decision_is_the_same_wherever_the_pictures_were_resized(kind: str) -> None:
    policy = make_policy(kind, FEATURES, resize_shape=[20, 24], crop_shape=[18, 22])
    batch = make_batch(2, FEATURES)
    small = batch | {
        name: resized(batch[name].flatten(0, 1), (20, 24)).unflatten(0, (2, 2)) for name in CAMERAS
    }
    seeds = range(2)
    chunks = [policy.decide(b, Noise.from_seeds(seeds)).chunk for b in (batch, small)]
    torch.testing.assert_close(chunks[0], chunks[1], rtol=0, atol=0)


def test_the_trunk_sees_the_crop_of_the_resized_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_policy("ebt", FEATURES, resize_shape=(20, 24), crop_shape=(18, 20)).config
    encoder, seen = CameraEncoder(config, 3), []
    encoder.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pictures = torch.rand(2, 3, 40, 48)
    encoder.eval()(pictures, (40, 48))
    torch.testing.assert_close(seen[0], resized(pictures, (20, 24))[:, :, 1:19, 2:22])
    encoder.train()(pictures, (40, 48))
    assert seen[1].shape == seen[0].shape


def test_without_shapes_the_trunk_sees_the_whole_picture() -> None:
    encoder, seen = CameraEncoder(make_policy("ebt", FEATURES, crop_shape=None, random_shift=0).config, 3), []
    encoder.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pictures = torch.rand(2, 3, 40, 48)
    encoder.train()(pictures, (40, 48))
    assert torch.equal(seen[0], pictures)


@pytest.mark.parametrize("vision", ["small", "resnet18"])
def test_pictures_are_moved_in_training_only(vision: str) -> None:
    encoder = CameraEncoder(make_policy("ebt", FEATURES, crop_shape=None, vision=vision).config, 3)
    seen: list[torch.Tensor] = []
    encoder.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pictures = torch.rand(2, 3, 40, 48)
    encoder.eval()(pictures, (40, 48))
    encoder.train()(pictures, (40, 48))
    assert torch.equal(seen[0], pictures) and not torch.equal(seen[1], pictures)
