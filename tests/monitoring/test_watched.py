"""Watching changes nothing; the ladder changes what it says it does."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.failures.calibrate import fit_and_score
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.eval.rollout.watched_episodes import read_watched, watched_episode, write_watched
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.monitoring.calibration import Calibration, calibrated
from ebt_policy.monitoring.recovery import Ladder
from ebt_policy.monitoring.signals import Statistic
from ebt_policy.monitoring.watched import WatchedRunner

ENV, SEEDS = "pusht_keypoints", [7, 8]


@pytest.fixture(scope="module")
def make_runner(checkpoint: Callable[[str], Path]) -> Callable:
    return partial(load_runner, checkpoint("ebt"))


def alarm_always(runner) -> Calibration:
    statistic = Statistic(("energy",), (-20.0,), (1.0,))
    return calibrated(
        np.linspace(0, 1e-3, 20),
        alpha=0.1,
        statistic=statistic,
        horizon=40,
        checkpoint_sha256=runner.checkpoint_sha256,
        source=ENV,
    )


def test_watching_changes_nothing_and_sees_every_decision(make_runner: Callable, tmp_path: Path):
    plain = rollout(make_runner(), ENV, SEEDS)
    watched = rollout(WatchedRunner(make_runner(), keep_inputs=True), ENV, SEEDS)
    for a, b in zip(plain, watched, strict=True):
        assert (a.max_coverage, a.ticks, a.final_energy_mean) == (
            b.max_coverage,
            b.ticks,
            b.final_energy_mean,
        )
        assert len(b.watch.signals) == b.decisions
        assert b.watch.signals[3]["energy"] == pytest.approx(float(b.traces[3].final_energy[0]))
    kept = [watched_episode(episode) for episode in watched]
    write_watched(tmp_path / "e.npz", kept, {"env": ENV})
    again, facts = read_watched(tmp_path / "e.npz")
    assert facts == {"env": ENV}
    for a, b in zip(kept, again, strict=True):
        assert (a.seed, a.success, a.length) == (b.seed, b.success, b.length)
        assert np.array_equal(a.chunks, b.chunks)
        assert np.array_equal(a.observations["observation.state"], b.observations["observation.state"])
        assert np.array_equal(a.signals["overlap"], b.signals["overlap"], equal_nan=True)


def test_no_episode_depends_on_its_batch_mates(make_runner: Callable):
    runner = WatchedRunner(
        make_runner(), alarm_always(make_runner()), Ladder(patience=1), environment(ENV).hold
    )
    together = rollout(runner, ENV, SEEDS)
    alone = [rollout(runner, ENV, [seed])[0] for seed in SEEDS]
    for a, b in zip(together, alone, strict=True):
        assert a.watch.recovery == b.watch.recovery
        assert a.decision_ticks == b.decision_ticks
        assert a.max_coverage == pytest.approx(b.max_coverage, abs=1e-4)


def test_each_recovery_action_does_what_it_says(make_runner: Callable):
    ladder = Ladder(actions=("hold", "ask"), patience=1)
    runner = WatchedRunner(make_runner(), alarm_always(make_runner()), ladder, environment(ENV).hold, True)
    (episode,) = rollout(runner, ENV, [7])
    watch = episode.watch
    # The first decision is watched, and lacks nothing that this statistic needs.
    assert watch.recovery == ["hold", "ask"]
    assert episode.decision_ticks == [0, 8]
    assert episode.ticks == 16  # it ended with the question
    assert np.isnan(watch.chunks[0]).all()  # held: the plan is dropped
    before, after = (watch.observations[i]["observation.state"][-1] for i in (0, 1))
    assert np.abs(after - before).max() < 8


def test_mistakes_are_named(make_runner: Callable):
    calibration = alarm_always(make_runner())
    with pytest.raises(UserError, match="holds still"):
        WatchedRunner(make_runner(), calibration, Ladder())
    other = dataclasses.replace(calibration, checkpoint_sha256="other")
    with pytest.raises(UserError, match="another checkpoint"):
        WatchedRunner(make_runner(), other)
    otherwise = dataclasses.replace(calibration, acting={"max_evaluations": 8})
    with pytest.raises(UserError, match="max_evaluations = 8; here it is 2"):
        WatchedRunner(make_runner(), otherwise)
    with pytest.raises(UserError, match="too few for alpha"):
        fit_and_score([[{"energy": 1.0}]] * 10, ["energy"], 5, 0.1)


def test_learned_signals_are_read_of_what_is_seen_and_after_every_whole_chunk(make_runner: Callable):
    from ebt_policy.monitoring.distillation import Distillation, DistillationConfig
    from ebt_policy.monitoring.learned_signals import LearnedSignals
    from ebt_policy.monitoring.transition import TransitionConfig, TransitionEnergy

    energy = TransitionEnergy(TransitionConfig(features=18, actions=16, checkpoint_sha256=""))
    novelty = Distillation(DistillationConfig(features=18, checkpoint_sha256=""))
    runner = WatchedRunner(make_runner(), keep_inputs=True, nets=LearnedSignals(energy, novelty))
    (episode,) = rollout(runner, ENV, [7])
    watch = episode.watch
    assert "transition" not in watch.signals[0]
    seen = [runner.runner.normalised({k: v[None] for k, v in o.items()}) for o in watch.observations[:2]]
    features = [
        torch.cat([s["observation.environment_state"][:, -1], s["observation.state"][:, -1]], 1) for s in seen
    ]
    with torch.no_grad():
        expected = energy(features[0], torch.from_numpy(watch.chunks[0][None, :8]), features[1])
        unlike = [float(novelty(s)) for s in features]
    assert watch.signals[1]["transition"] == pytest.approx(float(expected), rel=1e-4)
    assert [one["rnd"] for one in watch.signals[:2]] == pytest.approx(unlike, rel=1e-4)


def test_pictures_are_encoded_once_for_a_decision_with_its_alarms():
    from ebt_policy.monitoring.distillation import Distillation, DistillationConfig
    from ebt_policy.monitoring.learned_signals import LearnedSignals
    from ebt_policy.monitoring.transition import feature_vector

    runner = load_runner("shipped:pusht_pixels_ebt")
    encoder = runner.policy.model.encoder
    task = environment("pusht_pixels")
    observation, _ = task.make(False).reset(seed=7)
    seen = {name: value[None, None] for name, value in task.to_policy(observation).items()}
    with torch.no_grad():
        expected = feature_vector(runner.policy, runner.normalised(seen))
    net = Distillation(DistillationConfig(features=expected.shape[1], checkpoint_sha256=""))
    watched = WatchedRunner(runner, nets=LearnedSignals(rnd=net))
    calls = []
    encoder.camera_encoders[0].register_forward_hook(lambda *_: calls.append(1))
    watch = watched.watch()
    watched.decide(seen, Noise.from_seeds([0]), None, [watch])
    assert len(calls) == 1
    assert watch.features is not None and torch.equal(watch.features, expected[0])


def test_a_calibration_whose_net_is_missing_is_refused(make_runner: Callable):
    """Its score would stay where it is, and never alarm."""
    calibration = alarm_always(make_runner())
    statistic = Statistic(("energy", "rnd"), (0.0, 0.0), (1.0, 1.0))
    with pytest.raises(UserError, match="signal 'rnd', and its net is not here"):
        WatchedRunner(make_runner(), dataclasses.replace(calibration, statistic=statistic))
