"""Episodes with latency: deterministic, without latency as the usual rollout, and each handover does what it says."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

from ebt_policy.envs import environment
from ebt_policy.eval.rollout.delayed import (
    DelayedEpisode,
    Handover,
    _Arm,
    border_mask,
    delayed_rollout,
    third_differences,
)
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.inference.runner import Runner, RunnerDecision, load_runner

ENV, SEEDS = "pusht_keypoints", [3, 4]
HANDOVERS = [Handover(), Handover(waits=True), Handover(blend_s=0.2), Handover(pull="linear")]


@pytest.fixture
def runner(checkpoint: Callable) -> Runner:
    runner = load_runner(checkpoint("ebt"))
    runner.decisions = []
    decide = runner.decide

    def recorded(observations, noise, previous=None, overlap=None) -> RunnerDecision:
        decision = decide(observations, noise, previous, overlap)
        runner.decisions.append(decision.chunk)
        return decision

    runner.decide = recorded
    return runner


def played(
    runner: Runner, latency: int, handover: Handover, monkeypatch, ticks: int = 60
) -> list[DelayedEpisode]:
    """The first `ticks` ticks."""
    monkeypatch.setattr(
        import_module("ebt_policy.eval.rollout.delayed"),
        "environment",
        lambda name: replace(environment(name), max_ticks=ticks),
    )
    runner.decisions.clear()
    return delayed_rollout(runner, ENV, SEEDS, latency, handover, hold=lambda state, last: state)


@pytest.mark.parametrize("handover", HANDOVERS)
def test_without_latency_every_handover_is_the_usual_rollout(
    runner: Runner, handover: Handover, monkeypatch
) -> None:
    delayed = played(runner, 0, handover, monkeypatch)
    chunks = list(runner.decisions)
    runner.decisions.clear()
    monkeypatch.setattr(
        import_module("ebt_policy.eval.rollout.rollout"),
        "environment",
        lambda name: replace(environment(name), max_ticks=60),
    )
    rollout(runner, ENV, SEEDS)
    assert len(chunks) == len(runner.decisions)
    for ours, theirs in zip(chunks, runner.decisions, strict=True):
        assert np.array_equal(ours, theirs)
    for episode in delayed:
        assert episode.takeovers == list(range(8, 60, 8))


@pytest.mark.parametrize("handover", [*HANDOVERS, Handover(ensemble=True)])
def test_the_same_seeds_give_the_same_episodes(runner: Runner, handover: Handover, monkeypatch) -> None:
    first, second = (played(runner, 3, handover, monkeypatch) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.actions, other.actions)


def test_a_late_chunk_is_followed_by_time_and_the_old_one_until_then(runner: Runner, monkeypatch) -> None:
    latency = 3
    (episode, _) = played(runner, latency, Handover(), monkeypatch)
    chunks = [runner.actions(torch.from_numpy(chunk))[0] for chunk in runner.decisions]
    assert (episode.actions[:latency] == episode.actions[0]).all()  # nothing is there yet
    assert episode.takeovers == list(range(8 + latency, 60, 8))
    for tick in range(latency, 60):
        made = (tick - latency) // 8
        np.testing.assert_allclose(episode.actions[tick], chunks[made][tick - 8 * made], rtol=1e-6)


def test_real_time_chunking_executes_the_same_as_before_until_the_chunk_is_there(
    runner: Runner, monkeypatch
) -> None:
    played(runner, 3, Handover(pull="zeros"), monkeypatch)
    for before, after in zip(runner.decisions[:-1], runner.decisions[1:], strict=True):
        assert np.array_equal(after[:, :3], before[:, 8:11])
        assert not np.isclose(after[:, 3:8], before[:, 11:]).all()


def test_an_arm_that_waits_holds_for_the_latency_before_every_chunk(runner: Runner, monkeypatch) -> None:
    (episode, _) = played(runner, 4, Handover(waits=True), monkeypatch, 48)
    for begin in range(0, 48, 12):
        assert (episode.actions[begin : begin + 4] == episode.actions[begin]).all()
        assert np.ptp(episode.actions[begin + 4 : begin + 12], 0).max() > 0


def test_an_ensemble_averages_all_chunks_for_the_tick_the_oldest_first() -> None:
    arm = _Arm(10.0, Handover(ensemble=True))
    arm.take(np.full((4, 1), 1.0), 0, 0)
    arm.take(np.full((4, 1), 3.0), 2, 2)
    weights = np.exp([-0.0, -0.01])
    assert arm._planned(1) == 1.0
    assert arm._planned(3) == pytest.approx((weights * [1, 3]).sum() / weights.sum())
    assert arm._planned(5) == 3.0
    assert arm._planned(6) is None


def test_borders_are_the_differences_with_actions_of_both_chunks() -> None:
    steps = np.repeat([0.0, 1.0], 10)[:, None]  # one jump, at tick 10
    jerk, mask = third_differences(steps), border_mask(20, [10])
    assert jerk.shape == mask.shape == (17,)
    assert (jerk > 0).tolist() == mask.tolist()
    assert border_mask(5, [1]).tolist() == [True, False]
