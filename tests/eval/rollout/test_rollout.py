import dataclasses
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from ebt_policy.envs import environment, pusht
from ebt_policy.envs.simulated import Score, SimulatedEnv, TaskSpec
from ebt_policy.errors import UserError
from ebt_policy.eval.rollout import rollout as module
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.inference.runner import RunnerDecision, load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import Trace

SEEDS = [100_000 + i for i in range(4)]


class Recorder:
    """Passes everything on to a runner and keeps what went in and out."""

    def __init__(self, runner):
        self.runner, self.calls = runner, []
        self.n_obs_steps, self.n_action_steps = runner.n_obs_steps, runner.n_action_steps

    def decide(self, observations, noise, previous=None):
        decision = self.runner.decide(observations, noise, previous)
        self.calls.append((observations, previous, decision))
        return decision


def same_episodes(first, second, **tolerance) -> None:
    for a, b in zip(first, second, strict=True):
        assert (a.seed, a.ticks, a.success, a.decisions) == (b.seed, b.ticks, b.success, b.decisions)
        np.testing.assert_allclose(a.max_coverage, b.max_coverage, **tolerance)
        np.testing.assert_allclose(a.final_coverage, b.final_coverage, **tolerance)
        for left, right in zip(a.traces, b.traces, strict=True):
            np.testing.assert_allclose(left.energy, right.energy, **tolerance)


def test_results_do_not_depend_on_batching(stub_runner):
    together = rollout(stub_runner, "pusht_keypoints", SEEDS)
    alone = [rollout(stub_runner, "pusht_keypoints", [seed])[0] for seed in SEEDS]
    same_episodes(together, alone, rtol=0)
    assert len({episode.max_coverage for episode in together}) > 1


@pytest.mark.parametrize("kind", ["ebt", "matched_baseline", "diffusion", "act"])
def test_policies_do_not_depend_on_batching(kind, checkpoint, monkeypatch):
    spec = environment("pusht_keypoints")
    monkeypatch.setattr(module, "environment", lambda name: dataclasses.replace(spec, max_ticks=24))
    runner = load_runner(checkpoint(kind))
    recorded = Recorder(runner)
    together = rollout(recorded, "pusht_keypoints", SEEDS)
    assert together[0].decisions == 3
    # Rounding errors may grow in contact, so the actions of one decision are compared, not whole episodes.
    observations, previous, decision = recorded.calls[0]
    for row, seed in enumerate(SEEDS):
        one = {name: values[row : row + 1] for name, values in observations.items()}
        alone = runner.decide(one, Noise.from_seeds([seed]), previous)
        np.testing.assert_allclose(alone.actions[0], decision.actions[row], atol=0.05)  # of 512
        np.testing.assert_allclose(alone.trace.final_energy[0], decision.trace.final_energy[row], rtol=1e-3)


def test_each_decision_continues_the_last_chunk(stub_runner):
    recorded = Recorder(stub_runner)
    rollout(recorded, "pusht_keypoints", SEEDS[:3])
    (_, first, _), *later = recorded.calls
    assert first is None
    n = stub_runner.n_action_steps
    for (_, _, before), (_, previous, _) in zip(recorded.calls, later, strict=False):
        np.testing.assert_array_equal(previous[:, :-n], before.chunk[:, n:])
        np.testing.assert_array_equal(previous[:, -n:], np.repeat(before.chunk[:, -1:], n, axis=1))


def test_observations_are_the_two_newest_frames_and_the_first_stands_in_for_its_past(stub_runner):
    recorded = Recorder(stub_runner)
    rollout(recorded, "pusht_keypoints", SEEDS[:2])
    states = [observations["observation.state"] for observations, _, _ in recorded.calls]
    assert all(state.shape == (2, 2, 2) for state in states)
    np.testing.assert_array_equal(states[0][:, 0], states[0][:, 1])
    moved = np.abs(states[1][:, 1] - states[1][:, 0]).max()
    assert moved > 0


def test_an_episode_runs_300_ticks_and_its_last_decision_is_cut(stub_runner):
    advanced = []
    (episode,) = rollout(
        stub_runner, "pusht_keypoints", SEEDS[:1], progress=lambda ticks, done: advanced.append((ticks, done))
    )
    assert (episode.ticks, episode.decisions, episode.n_action_steps) == (300, 38, 8)  # 37.5 times 8
    assert np.sum(advanced, axis=0).tolist() == [300, 1]
    assert episode.evaluations_per_decision == 2 and episode.inner_steps == 1
    energies = [trace.final_energy[0] for trace in episode.traces]
    assert episode.final_energy_mean == pytest.approx(np.mean(energies))
    assert episode.final_energy_max == pytest.approx(np.max(energies))
    assert 0 <= episode.final_coverage <= episode.max_coverage <= 1


def test_finished_episodes_leave_the_batch_and_only_success_counts_as_success(stub_runner, monkeypatch):
    spec = pusht.SPECS["pusht_keypoints"]
    solved_at = {SEEDS[0]: 3, SEEDS[1]: 20, SEEDS[2]: None}

    class Scripted:
        """PushT whose coverage jumps over the threshold at a given tick and then falls again."""

        def __init__(self):
            self.env = spec.make(False)
            self.action_space = self.env.action_space

        def reset(self, seed):
            self.seed, self.tick = seed, 0
            return self.env.reset(seed=seed)

        def step(self, action):
            self.tick += 1
            observation, reward, *_ = self.env.step(action)
            hit = self.tick == solved_at[self.seed]
            return observation, reward, hit, False, {"coverage": 0.97 if hit else 0.1, "is_success": hit}

        def close(self):
            pass

    monkeypatch.setitem(
        pusht.SPECS, "pusht_keypoints", dataclasses.replace(spec, make=lambda render: Scripted())
    )
    recorded = Recorder(stub_runner)
    quick, slow, never = rollout(recorded, "pusht_keypoints", SEEDS[:3])
    assert [len(observations["observation.state"]) for observations, _, _ in recorded.calls[:5]] == [
        3,
        2,
        2,
        1,
        1,
    ]
    assert (quick.ticks, quick.ticks_to_success, quick.decisions, quick.success) == (3, 3, 1, True)
    assert (slow.ticks, slow.ticks_to_success, slow.decisions, slow.max_coverage) == (20, 20, 3, 0.97)
    assert (never.ticks, never.ticks_to_success, never.success, never.max_coverage) == (300, None, False, 0.1)


def test_frames_are_kept_for_the_recorded_seeds_only(stub_runner):
    recorded, other = rollout(stub_runner, "pusht_keypoints", SEEDS[:2], record={SEEDS[0]})
    assert len(recorded.frames) == recorded.ticks + 1 and other.frames is None
    assert recorded.frames[0].dtype == np.uint8 and recorded.frames[0].shape == (256, 256, 3)
    assert [len(e.coverages) for e in (recorded, other)] == [recorded.ticks, other.ticks]
    assert max(recorded.coverages) == recorded.max_coverage


def test_a_policy_for_another_robot_is_refused(stub_runner):
    stub_runner.config = SimpleNamespace(action_feature=SimpleNamespace(shape=(7,)))
    with pytest.raises(UserError, match=r"shape \(7,\).*takes \(2,\)"):
        rollout(stub_runner, "pusht_keypoints", SEEDS[:1])


class CameraRunner:
    """Looks at a camera, and remembers what it was shown."""

    n_obs_steps, n_action_steps, horizon = 2, 8, 16

    def __init__(self, camera: str = "agentview") -> None:
        features = {f"observation.images.{camera}": SimpleNamespace(shape=(3, 24, 32))}
        self.config = SimpleNamespace(input_features=features, action_feature=None)
        self.seen: list[np.ndarray] = []

    def name_in(self, given, name):
        return name

    def decide(self, observations, noise, previous=None):
        self.seen.append(observations["observation.images.agentview"])
        chunk = np.zeros((len(self.seen[-1]), self.horizon, 7), np.float32)
        return RunnerDecision(chunk[:, : self.n_action_steps], chunk, Trace.without_steps(len(chunk), 1))


def test_a_policy_gets_the_cameras_that_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lift = environment("robosuite_lift")
    monkeypatch.setattr(module, "environment", lambda name: dataclasses.replace(lift, max_ticks=8))
    runner = CameraRunner()
    rollout(runner, "robosuite_lift", [1])
    assert runner.seen[0].shape == (1, 2, 3, 24, 32) and runner.seen[0].dtype == np.float32
    assert 0 <= runner.seen[0].min() < runner.seen[0].max() <= 1
    with pytest.raises(UserError, match=r"camera 'wrist'.*agentview"):
        rollout(CameraRunner("wrist"), "robosuite_lift", [1])


@pytest.mark.parametrize(("ticks", "acted"), [(200, True), (5, False)])
def test_an_episode_knows_whether_its_disturbance_came(stub_runner, ticks, acted, monkeypatch):
    """A teleport comes after a quarter of a usual episode; one that ends before it was not disturbed."""
    spec = environment("pusht_keypoints+teleport")
    monkeypatch.setattr(module, "environment", lambda name: dataclasses.replace(spec, max_ticks=ticks))
    (episode,) = rollout(stub_runner, spec.name, SEEDS[:1])
    assert episode.disturbance["kind"] == "teleport" and episode.disturbance["acted"] is acted


class Dial:
    """A simulator whose picture shows the tick; it counts how many were drawn."""

    objects, sentence, drawn = None, "Watch the dial.", 0

    def reset(self, seed):
        self.ticks = 0

    def tick(self, action):
        self.ticks += 1

    def state(self):
        return np.array([self.ticks], np.float64)

    environment_state = state

    def score(self):
        return Score(0.0, False)

    def picture(self, camera, height, width):
        Dial.drawn += 1
        return np.full((height, width, 3), self.ticks, np.uint8)

    def close(self):
        pass


@pytest.mark.parametrize("n_obs_steps", [1, 2])
def test_pictures_are_drawn_where_a_decision_sees_them_and_nowhere_else(n_obs_steps, monkeypatch):
    bounds = (-1.0,)
    task = TaskSpec("dial", "Watch the dial.", 10, 20, 20, 1, 1, bounds, (1.0,), ("top",))
    make = partial(SimulatedEnv, task, Dial, cameras=("top",), image_size=(4, 4))
    spec = dataclasses.replace(
        environment("aloha_transfer_cube"), make=lambda render: make(), make_with_cameras=None, max_ticks=20
    )
    monkeypatch.setattr(module, "environment", lambda name: spec)
    monkeypatch.setattr(Dial, "drawn", 0)
    seen = []

    def decide(observations, noise, previous=None):
        seen.append(observations["observation.images.top"][0, :, 0, 0, 0] * 255)
        chunk = np.zeros((1, 16, 1), np.float32)
        trace = Trace.without_steps(1, evaluations=1, seconds=0.0)
        return RunnerDecision(chunk[:, :8], chunk, trace)

    runner = SimpleNamespace(n_obs_steps=n_obs_steps, n_action_steps=8, decide=decide)
    rollout(runner, "dial", [0])
    newest = [frames[-1] for frames in seen]
    assert newest == [0, 8, 16]
    if n_obs_steps == 2:
        assert [frames[0] for frames in seen] == [0, 7, 15]
    assert Dial.drawn == 1 + 2 * n_obs_steps  # the time limit cuts the last actions before their pictures
