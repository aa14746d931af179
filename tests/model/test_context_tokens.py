"""Context tokens: what the cameras show at image points reaches the actions, for every policy and camera encoder."""

from pathlib import Path

import pytest
import torch
from core_fixtures import LOW_DIM, SHAPES, make_batch, make_policy

from ebt_policy.chunk_policy import ChunkPolicy
from ebt_policy.model import vision_frozen
from ebt_policy.model.encoders import SpatialSoftmax
from ebt_policy.model.noise import Noise

FEATURES = tuple(SHAPES)
KINDS = ["ebt", "matched_baseline"]


def encoder(policy: ChunkPolicy):
    return policy.get_submodule("model.encoder" if policy.name == "ebt" else "encoder")


def plans(policy: ChunkPolicy, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return policy.decide(batch, Noise.from_seeds(range(len(batch["action"])))).chunk


def test_a_token_holds_the_features_under_its_heat_map_and_where_it_lies() -> None:
    pool = SpatialSoftmax(2, 1, tokens=True)
    torch.nn.init.zeros_(pool.heat.weight)
    pool.heat.weight.data[0, 0] = 50  # the heat map is the first channel
    pool.token = torch.nn.Identity()
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 1, 6], maps[0, 1, 1, 6], maps[0, 1, 4, 8] = 1, 3, 7
    tokens = pool(maps)[1]
    torch.testing.assert_close(tokens, torch.tensor([[[1.0, 3.0, 0.5, -0.5]]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vision", ["small", "resnet18", "frozen"])
def test_there_is_one_for_each_camera_step_and_image_point(
    kind: str, vision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision_frozen, "pretrained_weights", lambda name: {})
    monkeypatch.setattr(vision_frozen, "load_folded", lambda *of: None)
    policy = make_policy(kind, FEATURES, vision=vision, context_tokens=True, spatial_softmax_keypoints=5)
    found = encoder(policy).encoded({k: v for k, v in make_batch(3, FEATURES).items() if k in FEATURES})
    maps = 2 if vision == "frozen" else 1
    assert found.vector.shape == (3, 16) and found.tokens.shape == (3, 2 * 2 * maps * 5, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_actions_depend_on_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = make_policy(kind, FEATURES, vision="small", context_tokens=True), make_batch(3, FEATURES)
    before, encoded = plans(policy, batch), encoder(policy).encoded
    monkeypatch.setattr(
        encoder(policy), "encoded", lambda seen: (e := encoded(seen))._replace(tokens=e.tokens.flip(-1))
    )
    assert (plans(policy, batch) - before).abs().amax((1, 2)).min() > 1e-4


def test_diffusion_reads_them_once_for_all_of_its_evaluations() -> None:
    policy = make_policy(
        "matched_baseline", FEATURES, vision="small", context_tokens=True, method="diffusion"
    )
    calls: list[int] = []
    for block in policy.get_submodule("trunk.blocks"):
        block.context_kv.register_forward_hook(lambda *_: calls.append(1))
    policy.decide(make_batch(2, FEATURES), Noise.from_seeds(range(2)), max_evaluations=5)
    assert len(calls) == policy.config.layers


@pytest.mark.parametrize("kind", KINDS)
def test_without_cameras_there_are_none(kind: str) -> None:
    policy, plain = (make_policy(kind, LOW_DIM, context_tokens=wanted) for wanted in (True, False))
    assert policy.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("objective", ["denoise", "matching", "unrolled"])
def test_every_objective_trains_all_of_it(objective: str) -> None:
    head = "scalar" if objective == "unrolled" else "residual"
    policy = make_policy("ebt", FEATURES, vision="small", context_tokens=True, objective=objective, head=head)
    for name, parameter in policy.named_parameters():
        if "modulate" in name:  # zero at the start of training
            torch.nn.init.normal_(parameter, std=0.1)
    policy.train()(make_batch(4, FEATURES))[0].backward()
    tokens = [p for name, p in policy.named_parameters() if "token" in name or "context_kv" in name]
    assert len(tokens) == 2 + 3 + 2 * policy.config.layers  # of the camera, of the encoder, of the layers
    assert all(p.grad is not None and p.grad.any() for p in tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_policy_decides_the_same_and_rows_do_not_mix(kind: str, tmp_path: Path) -> None:
    policy, batch = make_policy(kind, FEATURES, vision="small", context_tokens=True), make_batch(3, FEATURES)
    chunk = plans(policy, batch)
    policy.save_pretrained(tmp_path)
    again = type(policy).from_pretrained(tmp_path)
    assert again.config.context_tokens
    torch.testing.assert_close(plans(again, batch), chunk, rtol=0, atol=0)
    first = {name: value[:1] for name, value in batch.items()}
    torch.testing.assert_close(plans(policy, first), chunk[:1], rtol=0, atol=1e-5)
