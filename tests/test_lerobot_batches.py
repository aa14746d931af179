"""Batches as LeRobot's own dataset and loader make them mean the same to the policy as our windows (B, T, ...)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.transforms import ImageTransforms, ImageTransformsConfig

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.errors import UserError
from ebt_policy.model import vision_frozen
from ebt_policy.modeling_ebt import EBTPolicy

STATE, ACTION, HORIZON, SIDE = "observation.state", "action", 4, 16


def config(n_obs_steps: int = 1, **features: PolicyFeature) -> EBTConfig:
    return EBTConfig(
        input_features={name: f for name, f in features.items() if name != ACTION},
        output_features={name: f for name, f in features.items() if name == ACTION},
        n_obs_steps=n_obs_steps,
        horizon=HORIZON,
        n_action_steps=2,
        device="cpu",
        width=16,
        layers=1,
        attention_heads=2,
    )


def without_time(value: torch.Tensor) -> torch.Tensor:
    """(B, 1, ...) as LeRobot's dataset gives a video's one frame."""
    return value.squeeze(1) if value.shape[1] == 1 else value


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 3),
    steps=st.integers(1, 2),
    cameras=st.integers(0, 2),
    state=st.integers(1, 3),
    action=st.integers(1, 2),
)
def test_the_loss_does_not_depend_on_the_axes_that_lerobot_drops(batch, steps, cameras, state, action):
    names = [f"observation.images.c{i}" for i in range(cameras)]
    features = {
        STATE: PolicyFeature(FeatureType.STATE, (state,)),
        ACTION: PolicyFeature(FeatureType.ACTION, (action,)),
    } | {name: PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)) for name in names}
    torch.manual_seed(0)
    policy = EBTPolicy(config(steps, **features))
    full = {STATE: torch.randn(batch, steps, state), ACTION: torch.randn(batch, HORIZON, action)}
    full |= {name: torch.rand(batch, steps, 3, SIDE, SIDE) for name in names}
    lerobots = full | {name: without_time(full[name]) for name in names}
    if state == 1:
        lerobots[STATE] = full[STATE].squeeze(-1)
    if action == 1:
        lerobots[ACTION] = full[ACTION].squeeze(-1)
    losses = []
    for given_batch in (full, lerobots):
        torch.manual_seed(1)
        losses.append(policy(given_batch)[0].item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3, 1), (2,)])
def test_other_shapes_are_refused_by_name(shape):
    features = {
        STATE: PolicyFeature(FeatureType.STATE, (2,)),
        ACTION: PolicyFeature(FeatureType.ACTION, (2,)),
    }
    policy = EBTPolicy(config(2, **features))
    with pytest.raises(UserError, match=r"'observation\.state' must come as 2 observation step"):
        policy({STATE: torch.zeros(shape), ACTION: torch.zeros(2, HORIZON, 2)})


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    ("steps", "vision"), [(1, "resnet18"), (2, "resnet18"), (1, "frozen"), (2, "frozen")]
)
def test_lerobots_loader_with_a_video_and_a_picture_camera(
    two_cameras: tuple[str, Path], batch_size: int, steps: int, vision: str, monkeypatch: pytest.MonkeyPatch
):
    """Two cameras of both kinds, augmented by LeRobot's transforms: what lerobot-train does up to the first loss."""
    weights = torchvision.models.mobilenet_v2().state_dict()
    monkeypatch.setattr(vision_frozen, "pretrained_weights", lambda name: weights)
    tuned = EBTConfig(
        n_obs_steps=steps,
        vision=vision,
        device="cpu",
        width=16,
        layers=1,
        attention_heads=2,
        horizon=HORIZON,
        n_action_steps=2,
    )
    meta = LeRobotDataset(*two_cameras).meta
    policy = make_policy(tuned, ds_meta=meta)
    dataset = LeRobotDataset(
        *two_cameras,
        delta_timestamps=resolve_delta_timestamps(tuned, meta),
        image_transforms=ImageTransforms(ImageTransformsConfig(enable=True)),
        video_backend="pyav",
    )
    preprocessor, _ = make_pre_post_processors(tuned, dataset_stats=meta.stats)
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=batch_size)))
    loss, _ = policy(preprocessor(batch))
    assert np.isfinite(loss.item()) and loss.requires_grad
