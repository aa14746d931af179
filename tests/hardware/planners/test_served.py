"""A policy behind a server makes the same decisions as in a rollout: same previous chunk, same noise."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from lerobot.configs.types import FeatureType, PolicyFeature
from policy_server import serving

from ebt_policy.errors import UserError
from ebt_policy.hardware.planners.served import ServedRunner, normaliser_sha256, serve
from ebt_policy.hardware.remote.client import Expectation, RemotePolicy
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.inference.robot_contract import RobotContract
from ebt_policy.inference.runner import Runner, RunnerDecision, load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import Trace
from ebt_policy.monitoring.calibration import Calibration, calibrated
from ebt_policy.monitoring.signals import Statistic
from ebt_policy.monitoring.watched import WatchedRunner

TIMEOUT_S = 60.0


def frames(count: int) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [
        {
            "observation.state": draw.uniform(0, 512, 2).astype(np.float32),
            "observation.environment_state": draw.uniform(0, 512, 16).astype(np.float32),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
def test_replies_equal_those_of_the_runner_with_history_and_plan_carried_on(kind, checkpoint):
    runner = load_runner(checkpoint(kind))
    steps, ticks = runner.n_obs_steps, runner.n_action_steps
    seen, noise, memory, expected = frames(2 * ticks + 1), Noise.from_seeds([7]), PlanMemory(), []
    for tick in (0, ticks, 2 * ticks):
        history = [seen[max(tick - i, 0)] for i in reversed(range(steps))]
        batch = {name: np.stack([frame[name] for frame in history])[None] for name in seen[0]}
        decision = runner.decide(batch, noise, memory.at(tick))
        memory.store(decision.chunk, tick)
        expected.append(decision)

    served = ServedRunner(load_runner(checkpoint(kind)), seed=7)
    with serving(served) as url, RemotePolicy(url) as policy:
        for _episode in range(2):  # a reset begins the same episode again
            policy.reset()
            found = []
            for tick, frame in enumerate(seen):
                if tick % ticks:
                    policy.observe(frame)
                else:
                    found.append(policy.decide(frame, TIMEOUT_S))
            for reply, decision in zip(found, expected, strict=True):
                np.testing.assert_array_equal(reply.actions, decision.actions[0])
                assert reply.evaluations == decision.trace.evaluations[0]
                assert reply.energy == pytest.approx(decision.trace.old_plan(0), abs=1e-5)


def calibration_of(runner: Runner, mean: float) -> Calibration:
    """Of the logarithm of the energy alone, which has this mean."""
    return calibrated(
        np.linspace(0, 1, 20),
        alpha=0.1,
        statistic=Statistic(("energy",), (mean,), (1.0,)),
        horizon=40,
        checkpoint_sha256=runner.checkpoint_sha256,
        source="test",
    )


def test_a_watched_policy_acts_the_same_and_says_the_score_that_watching_it_here_would(checkpoint):
    runner = load_runner(checkpoint("ebt"))
    steps, ticks = runner.n_obs_steps, runner.n_action_steps
    calibration = calibration_of(runner, -5.0)
    plain, served = ServedRunner(runner), ServedRunner(runner, calibration=calibration)
    assert plain.welcome.alarm_above is None and served.welcome.alarm_above == calibration.threshold
    watched = WatchedRunner(runner, calibration)
    scores = []
    for episode in range(2):
        watch, noise, memory = watched.watch(), Noise.from_seeds([0]), PlanMemory()
        for number, frame in enumerate(frames(4)):
            observation = {name: np.stack([value] * steps) for name, value in frame.items()}
            batch = {name: value[None] for name, value in observation.items()}
            expected = watched.decide(batch, noise, memory.at(number * ticks), [watch])
            memory.store(expected.chunk, number * ticks)
            when = {"tick": (10 * episode + number) * ticks, "reset": number == 0, "deadline_s": None}
            found, unwatched = served.decide(observation, **when), plain.decide(observation, **when)
            np.testing.assert_array_equal(found.actions, unwatched.actions)
            assert (unwatched.score, unwatched.alarm) == (None, False)
            reading = watch.readings[-1]
            assert (found.score, found.alarm) == (reading.score, reading.alarm)
            scores.append(found.score)
    assert (
        scores[:4] == scores[4:] and len(set(scores)) > 1
    )  # an episode begins its score anew, and it accumulates


def test_score_and_alarm_reach_the_arm_which_may_insist_on_them(checkpoint):
    runner = load_runner(checkpoint("ebt"))
    for mean, alarm in ((-20.0, True), (20.0, False)):
        served = ServedRunner(runner, calibration=calibration_of(runner, mean))
        with serving(served) as url, RemotePolicy(url, Expectation(watched=True)) as policy:
            reply = policy.decide(frames(1)[0], TIMEOUT_S)
            assert reply.alarm is alarm and reply.score is not None
            assert (reply.score > policy.welcome.alarm_above) is alarm
    with (
        serving(ServedRunner(runner)) as url,
        pytest.raises(UserError, match="--calibration FILE"),
        RemotePolicy(url, Expectation(watched=True)),
    ):
        pass


def test_replies_past_the_calibrated_length_say_so_until_the_next_episode(checkpoint):
    runner = load_runner(checkpoint("ebt"))
    calibration = replace(calibration_of(runner, 0.0), horizon=2)
    observation = frames(1)[0]
    with serving(ServedRunner(runner, calibration=calibration)) as url, RemotePolicy(url) as policy:
        for _ in range(2):
            policy.reset()
            beyond = [policy.decide(observation, TIMEOUT_S).beyond for _ in range(4)]
            assert beyond == [False, False, True, True]


def test_a_score_that_is_not_finite_is_an_alarm_without_a_score(checkpoint):
    runner = load_runner(checkpoint("ebt"))
    served = ServedRunner(runner, calibration=calibration_of(runner, -math.inf))
    with serving(served) as url, RemotePolicy(url) as policy:
        reply = policy.decide(frames(1)[0], TIMEOUT_S)
    assert (reply.score, reply.alarm) == (None, True)


def test_asking_at_another_pace_than_calibrated_is_said_once(checkpoint, caplog):
    runner = load_runner(checkpoint("ebt"))
    served = ServedRunner(runner, calibration=calibration_of(runner, 0.0))
    observation = {name: np.stack([value] * runner.n_obs_steps) for name, value in frames(1)[0].items()}
    pace = runner.n_action_steps
    for tick in (0, pace, 2 * pace, 2 * pace + 1, 2 * pace + 2):
        served.decide(observation, tick=tick, reset=tick == 0, deadline_s=None)
        assert len(caplog.records) == (tick > 2 * pace)


def test_a_deadline_ends_the_thinking(checkpoint):
    served = ServedRunner(load_runner(checkpoint("ebt")))
    observation = {
        name: np.stack([value] * served.welcome.n_obs_steps) for name, value in frames(1)[0].items()
    }
    without = served.decide(observation, tick=0, reset=True, deadline_s=None)
    hurried = served.decide(observation, tick=0, reset=True, deadline_s=1e-9)
    assert hurried.stop_reason == "deadline" and hurried.evaluations < without.evaluations
    again = served.decide(observation, tick=0, reset=True, deadline_s=None)
    np.testing.assert_array_equal(again.actions, without.actions)


def test_the_normalisation_has_a_hash_of_its_own(checkpoint, tmp_path):
    folder = checkpoint("ebt")
    before = normaliser_sha256(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "model.safetensors").write_bytes(b"other weights")
    assert normaliser_sha256(copy) == before
    statistics = next(copy.glob("policy_preprocessor_step*.safetensors"))
    statistics.write_bytes(statistics.read_bytes()[:-1] + b"\x7f")
    assert normaliser_sha256(copy) != before


def test_pictures_travel_as_bytes_and_are_decided_on_as_shares_of_one():
    """As environments and datasets give them: float32 in 0..1."""
    seen = {}

    def decide(observations, noise, previous):
        seen.update(observations)
        return RunnerDecision(np.zeros((1, 1, 2)), np.zeros((1, 4, 2)), Trace.without_steps(1, 1))

    features = {"observation.image": PolicyFeature(FeatureType.VISUAL, (3, 2, 2))}
    action = PolicyFeature(FeatureType.ACTION, (2,))
    runner = SimpleNamespace(
        config=SimpleNamespace(action_feature=action),
        needs=features,
        n_obs_steps=1,
        n_action_steps=1,
        checkpoint_sha256="",
        sentences=[],
        decide=decide,
    )
    served = ServedRunner(runner)
    assert served.welcome.features["observation.image"].dtype == "uint8"
    picture = np.array([0, 51, 255] * 4, np.uint8).reshape(1, 3, 2, 2)
    served.decide({"observation.image": picture}, tick=0, reset=True, deadline_s=None)
    assert seen["observation.image"].dtype == np.float32
    np.testing.assert_allclose(seen["observation.image"], picture[None] / 255, rtol=1e-6)


def test_mistakes_are_told_before_the_policy_is_loaded(tmp_path, monkeypatch):
    monkeypatch.delenv("EBT_POLICY_TOKEN", raising=False)
    with pytest.raises(UserError, match="cannot be read"):
        serve("shipped:pusht_keypoints_ebt", "127.0.0.1", 0, tmp_path / "none")
    with pytest.raises(UserError, match="Other computers"):
        serve("shipped:pusht_keypoints_ebt", "0.0.0.0", 0, None)
    with pytest.raises(UserError, match="above 0"):
        serve("shipped:pusht_keypoints_ebt", "127.0.0.1", 0, None, heartbeat_s=0)


def test_a_server_says_which_robot_its_checkpoint_came_from_and_refuses_another_rate(checkpoint, monkeypatch):
    contract = RobotContract(("x", "y"), ("x.pos", "y.pos"), 10.0, "pusht")
    served = ServedRunner(load_runner(checkpoint("ebt")), contract=contract)
    assert served.welcome.robot.action_names == ("x.pos", "y.pos")
    assert served.welcome.fps == 10.0
    monkeypatch.setattr("ebt_policy.hardware.planners.served.read_robot_contract", lambda folder: contract)
    with pytest.raises(UserError, match="10 ticks a second.*--fps=10"):
        serve(checkpoint("ebt"), "127.0.0.1", 0, None, fps=30.0)
