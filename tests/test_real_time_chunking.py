"""Real-time chunking as LeRobot 0.6 calls it: through the policy, and through its own engine."""

import time
from types import SimpleNamespace

import pytest
import torch
from core_fixtures import first_frames, make_batch, make_policy
from lerobot.configs.types import RTCAttentionSchedule
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import RTCInferenceEngine, supports_rtc_inference
from torch import Tensor

from ebt_policy import chunk_policy
from ebt_policy.errors import UserError
from ebt_policy.model.noise import Noise
from ebt_policy.model.overlap import Overlap
from ebt_policy.model.trace import Decision, Trace
from ebt_policy.processor_ebt import make_ebt_pre_post_processors

POLICIES = [
    {},
    {"start": "zero", "max_evaluations": 4},
    {"start": "noise", "noise_levels": None},
    {"head": "scalar", "objective": "matching", "start": "noise"},
    {"objective": "unrolled"},
]


def left_over(ticks: int, seed: int = 5) -> Tensor:
    return torch.rand(ticks, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("options", POLICIES)
@pytest.mark.parametrize("delay", [0, 3, 6, 20])
def test_actions_that_will_be_executed_come_back_unchanged(options: dict, delay: int) -> None:
    policy = make_policy(**options)
    last, frames = left_over(6), first_frames(make_batch(1))
    chunk = policy.predict_action_chunk(frames, inference_delay=delay, prev_chunk_left_over=last)
    kept = min(delay, len(last))
    assert chunk.shape == (1, policy.config.horizon, 2)
    assert torch.equal(chunk[0, :kept], last[:kept])
    assert not torch.isclose(chunk[0, len(last) :], last[-1]).all()


def test_the_overlap_goes_to_the_policys_device(monkeypatch) -> None:
    """Planners make it from arrays, so on the CPU. The device `meta` stands in for a GPU: nothing there mixes with the CPU either."""
    policy, seen = make_policy(), []

    def decide(observations, noise, previous, max_evaluations, overlap) -> Decision:
        seen.extend([*observations.values(), previous, overlap.values, overlap.weights])
        return Decision(overlap.pull(previous), Trace.without_steps(1, 1))

    monkeypatch.setattr(policy, "_decide", decide)
    monkeypatch.setattr(
        chunk_policy, "fp32_grad_enabled", lambda kind: torch.enable_grad()
    )  # no autocast there
    previous = make_batch(1)["action"]
    policy.to("meta").decide(make_batch(1), None, previous, overlap=Overlap.of(previous, 3))
    assert {value.device.type for value in seen} == {"meta"}


@pytest.mark.parametrize("options", POLICIES)
def test_without_delay_and_left_over_it_is_the_usual_chunk_bit_for_bit(options: dict) -> None:
    policy, frames = make_policy(**options), first_frames(make_batch(2))
    policy.reset(seeds=[1, 2])
    usual = policy.predict_action_chunk(frames)
    for nothing in (None, torch.zeros(0, 2), torch.zeros(10, 2)):  # LeRobot fills up with zeros
        policy.reset(seeds=[1, 2])
        chunk = policy.predict_action_chunk(frames, inference_delay=0, prev_chunk_left_over=nothing)
        assert chunk.shape[1] == policy.config.horizon
        assert torch.equal(chunk[:, : usual.shape[1]], usual)


def test_zeros_that_lerobot_appends_pull_nothing_and_warm_starts_come_from_the_left_over() -> None:
    policy, frames = make_policy(), first_frames(make_batch(1))
    results = []
    for last in (left_over(4), torch.cat([left_over(4), torch.zeros(6, 2)])):
        policy.reset(seeds=[3])
        results.append(policy.predict_action_chunk(frames, inference_delay=2, prev_chunk_left_over=last))
    assert torch.equal(*results)
    policy.reset(seeds=[3])
    previous = torch.cat([left_over(4), left_over(4)[-1:].expand(12, -1)])[None]
    batch = {name: value[:, None].expand(-1, 2, *value.shape[1:]) for name, value in frames.items()}
    ours = policy.decide(batch, Noise.from_seeds([3]), previous, overlap=Overlap.of(previous, 2))
    assert torch.equal(results[0], ours.chunk)


def test_lerobots_config_says_how_far_and_how_strongly_it_pulls() -> None:
    policy, frames, last = make_policy(), first_frames(make_batch(1)), left_over(12)

    def distances(**options) -> Tensor:
        policy.config.rtc_config = RTCConfig(**options) if options else None
        policy.reset(seeds=[3])
        chunk = policy.predict_action_chunk(frames, inference_delay=2, prev_chunk_left_over=last)
        return (chunk[0, :12] - last).abs().amax(1)

    ones = distances(prefix_attention_schedule=RTCAttentionSchedule.ONES, execution_horizon=9)
    assert (ones[:9] == 0).all() and (ones[9:] > 0).all()
    zeros = distances(prefix_attention_schedule=RTCAttentionSchedule.ZEROS, execution_horizon=9)
    assert (zeros[:2] == 0).all() and (zeros[2:] > 0).all()
    linear = distances(execution_horizon=9)
    assert (linear[2:9] < zeros[2:9]).all()
    policy.config.rtc_config = RTCConfig(enabled=False)
    assert policy.predict_action_chunk(frames, inference_delay=2, prev_chunk_left_over=last).shape[1] == 8


@pytest.mark.parametrize(
    ("last", "delay", "message"),
    [
        (torch.zeros(4, 3) + 1, 0, r"prev_chunk_left_over must be \(ticks, 2\).*found \(4, 3\)"),
        (torch.zeros(2), 0, r"prev_chunk_left_over must be .*found \(2,\)"),
        (torch.full((4, 2), torch.nan), 0, "prev_chunk_left_over holds NaN"),
        (left_over(4), -1, "inference_delay must be a number of control periods.*found -1"),
        (left_over(4), 1.5, "inference_delay must be a number of control periods.*found 1.5"),
    ],
)
def test_what_is_wrong_is_named(last: Tensor, delay: float, message: str) -> None:
    policy, frames = make_policy(), first_frames(make_batch(1))
    with pytest.raises(UserError, match=message):
        policy.predict_action_chunk(frames, inference_delay=delay, prev_chunk_left_over=last)


def test_lerobot_asks_only_policies_that_have_it() -> None:
    assert supports_rtc_inference(make_policy())
    baseline = make_policy("matched_baseline", method="flow")
    assert not supports_rtc_inference(baseline)
    with pytest.raises(UserError, match="'matched_baseline' has no real-time chunking"):
        baseline.decide(make_batch(1), overlap=Overlap.of(torch.rand(1, 16, 2), 2))


def test_lerobots_engine_plays_chunks_that_begin_with_what_was_executed_meanwhile() -> None:
    """RTCInferenceEngine, as `lerobot-rollout --inference.type=rtc` builds it, in real time; the policy takes 60 ms."""
    features, fps = ("observation.state",), 50.0
    policy = make_policy(features=features, n_obs_steps=1)
    policy.config.rtc_config = RTCConfig(execution_horizon=12)
    calls: list[tuple[int, Tensor | None, Tensor]] = []
    decide = policy.predict_action_chunk

    def slow(batch, inference_delay, prev_chunk_left_over):
        chunk = decide(batch, inference_delay=inference_delay, prev_chunk_left_over=prev_chunk_left_over)
        calls.append((inference_delay, prev_chunk_left_over, chunk[0].clone()))
        time.sleep(0.06)
        return chunk

    policy.predict_action_chunk = slow
    stats = {
        "observation.state": {"min": torch.tensor([-1.0, -1.0]), "max": torch.tensor([1.0, 1.0])},
        "action": {"min": torch.tensor([-10.0, 0.0]), "max": torch.tensor([10.0, 4.0])},
    }
    preprocessor, postprocessor = make_ebt_pre_post_processors(policy.config, dataset_stats=stats)
    engine = RTCInferenceEngine(
        policy,
        preprocessor,
        postprocessor,
        SimpleNamespace(robot_type="stub", action_features={"a.pos": float, "b.pos": float}),
        policy.config.rtc_config,
        {"observation.state": {"dtype": "float32", "shape": (2,), "names": ["a.pos", "b.pos"]}},
        task="",
        fps=fps,
        device="cpu",
    )
    engine.start()
    engine.resume()
    played = []
    try:
        for tick in range(60):
            engine.notify_observation({"a.pos": 0.01 * tick, "b.pos": 0.2})
            played.append(engine.get_action(None))
            time.sleep(1 / fps)
    finally:
        engine.stop()
    assert not engine.failed
    actions = torch.stack([action for action in played if action is not None])
    assert len(actions) > 40 and (actions.abs() <= torch.tensor([20.0, 8.0])).all()
    later = [(delay, last, chunk) for delay, last, chunk in calls if delay and last is not None]
    assert len(later) > 3
    for delay, last, chunk in later:
        known = int((last != 0).any(1).sum())
        assert delay >= 3
        assert torch.equal(chunk[: min(delay, known)], last[: min(delay, known)])
