"""The planner of a local policy makes the same decisions as a rollout."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from ebt_policy.envs import environment
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.hardware.control.planning import NoPlan, Observation, Plan, PlanRequest, answered
from ebt_policy.hardware.planners.local_planner import LocalPlanner
from ebt_policy.inference.runner import RunnerDecision, load_runner
from ebt_policy.model.trace import Trace
from ebt_policy.monitoring.calibration import Calibration, calibrated
from ebt_policy.monitoring.recovery import Ladder
from ebt_policy.monitoring.signals import Statistic
from ebt_policy.monitoring.watched import WatchedRunner

ENV, FPS, TICKS = "pusht_keypoints", 10.0, 60


class Spy:
    """A WatchedRunner in a rollout; keeps the actions that were executed of each decision. After TICKS it ends."""

    def __init__(self, watched: WatchedRunner) -> None:
        self._watched, self.actions, self.ticks = watched, [], 0
        self.n_obs_steps, self.n_action_steps = watched.n_obs_steps, watched.n_action_steps
        self.config, self.watch, self.name_in = watched.config, watched.watch, watched.name_in

    def decide(self, *args, **watching) -> RunnerDecision:
        decision = self._watched.decide(*args, **watching)
        self.actions.append(decision.actions[0])
        self.ticks += self.n_action_steps
        decision.ended |= self.ticks >= TICKS
        return decision


def played(planner: LocalPlanner, seed: int) -> list[Plan]:
    """The same episode on the same env, through requests as a control loop asks them."""
    planner.seed = seed
    spec = environment(ENV)
    env = spec.make(False)
    observation, _ = env.reset(seed=seed)
    frames, plans, tick = [Observation(spec.to_policy(observation), 0.0)], [], 0
    while tick < TICKS:
        plans.append(planner.plan(PlanRequest(frames, np.inf, reset=not plans)))
        frames = []
        for action in plans[-1].actions[: plans[-1].execute]:
            observation, *_ = env.step(action)
            tick += 1
            frames.append(Observation(spec.to_policy(observation), tick / FPS))
        if plans[-1].ask:
            break
    env.close()
    return plans


def alarm_always(runner) -> Calibration:
    return calibrated(
        np.linspace(0, 1e-3, 20),
        alpha=0.1,
        statistic=Statistic(("energy",), (-20.0,), (1.0,)),
        horizon=40,
        checkpoint_sha256=runner.checkpoint_sha256,
        source=ENV,
    )


@pytest.mark.parametrize(("kind", "n_obs_steps"), [("ebt", 1), ("diffusion", 2)])
def test_it_decides_bit_for_bit_as_a_rollout_does(
    checkpoint: Callable, monkeypatch: pytest.MonkeyPatch, kind: str, n_obs_steps: int
):
    make = partial(load_runner, checkpoint(kind))
    planner = LocalPlanner(WatchedRunner(make()), FPS)
    planner.warm_up()  # leaves no trace
    assert planner.watched.n_obs_steps == n_obs_steps
    for seed in (3, 4):  # the second begins afresh
        spy = Spy(WatchedRunner(make()))
        rollout(spy, ENV, [seed])
        plans = played(planner, seed)
        assert len(plans) == len(spy.actions) > 5
        for plan, actions in zip(plans, spy.actions, strict=True):
            assert plan.execute == len(actions)
            assert len(plan.actions) > plan.execute  # all that was planned, to bridge thinking
            assert np.array_equal(plan.actions[: plan.execute], actions)


def test_every_recovery_action_reaches_the_plan(checkpoint: Callable):
    make = partial(load_runner, checkpoint("ebt"))
    ladder = Ladder(actions=("hold", "ask"), patience=1)
    hold = environment(ENV).hold
    spy = Spy(WatchedRunner(make(), alarm_always(make()), ladder, hold))
    (episode,) = rollout(spy, ENV, [7])
    plans = played(LocalPlanner(WatchedRunner(make(), alarm_always(make()), ladder, hold), FPS), 7)
    assert [plan.recovery for plan in plans] == episode.watch.recovery == ["hold", "ask"]
    assert [plan.execute for plan in plans] == [8, 8]
    assert [plan.ask for plan in plans] == [False, True]
    assert all(plan.alarm and plan.score > 1e-3 for plan in plans)
    for plan, actions in zip(plans, spy.actions, strict=True):
        assert np.array_equal(plan.actions[: plan.execute], actions)
    assert np.ptp(plans[0].actions, axis=0).max() == 0  # held


def test_a_plan_past_the_calibrated_length_says_so(checkpoint: Callable):
    runner = load_runner(checkpoint("ebt"))
    calibration = replace(alarm_always(runner), horizon=3)
    plans = played(LocalPlanner(WatchedRunner(runner, calibration), FPS), 3)
    assert [plan.beyond for plan in plans] == [i >= 3 for i in range(len(plans))]
    assert all(plan.alarm for plan in plans[1:])


class Fake:
    """What a LocalPlanner needs of a WatchedRunner; plans what `chunks` gives, normalised as it is."""

    n_obs_steps, n_action_steps = 1, 2

    def __init__(self, shapes: dict[str, tuple[int, ...]], chunks=None) -> None:
        features = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
        self.config = SimpleNamespace(action_feature=SimpleNamespace(shape=(2,)))
        self.runner = SimpleNamespace(needs=features, config=self.config, actions=lambda chunk: chunk.numpy())
        self.chunks, self.batches, self.previous = chunks, [], []

    def watch(self):
        return SimpleNamespace(readings=[], recovery=[])

    def decide(self, batch, noise, previous, watches, overlap=None) -> RunnerDecision:
        self.batches.append(batch)
        self.previous.append(previous)
        chunk = np.zeros((1, 8, 2), np.float32) if self.chunks is None else next(self.chunks)
        return RunnerDecision(np.zeros((1, 2, 2), np.float32), chunk, Trace.without_steps(1, 2, 0.0))


def test_pictures_as_bytes_are_those_as_floats():
    picture = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    fake = Fake({"observation.images.top": (3, 4, 5)})
    planner = LocalPlanner(fake, FPS)
    for value in (picture, picture.astype(np.float32) / 255):  # as a robot shows it, and as the envs do
        planner.plan(PlanRequest([Observation({"observation.images.top": value}, 0.0)], np.inf, True))
    first, second = (batch["observation.images.top"] for batch in fake.batches)
    assert first.dtype == second.dtype == np.float32
    assert first.shape == (1, 1, 3, 4, 5)
    assert np.array_equal(first, second)


def test_an_observation_with_nan_gives_no_plan_and_the_next_one_does(checkpoint: Callable):
    planner = LocalPlanner(WatchedRunner(load_runner(checkpoint("ebt"))), FPS)
    usual = {name: np.zeros(shape, np.float32) for name, shape in planner.needs.items()}
    broken = usual | {"observation.state": np.full(2, np.nan, np.float32)}
    answers = [
        answered(planner, PlanRequest([Observation(seen, stamp)], np.inf, stamp == 0))
        for stamp, seen in enumerate((usual, broken, usual))
    ]
    assert [type(answer) for answer in answers] == [Plan, NoPlan, Plan]
    assert "observation.state" in answers[1].reason


def test_the_last_plan_is_carried_on_by_time():
    """Whenever the next request comes; not where it comes after the plan's end, or the plan was dropped."""
    chunks = [np.random.default_rng(i).random((1, 8, 2), np.float32) for i in range(5)]
    chunks[3][:] = np.nan
    fake = Fake({"observation.state": (2,)}, iter(chunks))
    planner = LocalPlanner(fake, FPS)
    stamps = [5.0, 5.0 + 3.04 / FPS, 5.0 + 11.1 / FPS, 5.0 + 12 / FPS, 5.0 + 13 / FPS]
    for i, stamp in enumerate(stamps):
        seen = Observation({"observation.state": np.zeros(2, np.float32)}, stamp)
        planner.plan(PlanRequest([seen], np.inf, reset=i == 0))
    assert fake.previous[0] is None
    assert np.array_equal(fake.previous[1], np.concatenate([chunks[0][:, 3:]] + 3 * [chunks[0][:, -1:]], 1))
    assert fake.previous[2] is None
    assert np.array_equal(fake.previous[3], np.concatenate([chunks[2][:, 1:], chunks[2][:, -1:]], 1))
    assert fake.previous[4] is None


def test_thinking_ends_at_the_deadline_of_its_question(checkpoint: Callable):
    watched = WatchedRunner(load_runner(checkpoint("ebt"), 20))
    planner = LocalPlanner(watched, FPS)
    nothing = {name: np.zeros(shape, np.float32) for name, shape in planner.needs.items()}
    made = [
        planner.plan(PlanRequest([Observation(nothing, 0.0)], seconds, True)) for seconds in (1e-9, np.inf)
    ]
    assert made[0].stop_reason == "deadline"
    assert made[0].evaluations < made[1].evaluations == 20
    assert made[1].stop_reason != "deadline"


def test_the_users_own_limit_of_thinking_holds_where_it_is_the_shorter(checkpoint: Callable):
    watched = WatchedRunner(load_runner(checkpoint("ebt"), 20, overrides={"deadline_s": 1e-9}))
    planner = LocalPlanner(watched, FPS)
    nothing = {name: np.zeros(shape, np.float32) for name, shape in planner.needs.items()}
    for seconds in (np.inf, 60.0, 60.0):
        made = planner.plan(PlanRequest([Observation(nothing, 0.0)], seconds, True))
        assert made.stop_reason == "deadline" and made.evaluations < 20


def test_a_broken_observation_is_left_out_of_the_history():
    fake = Fake({"observation.state": (1,)})
    fake.n_obs_steps = 2
    planner = LocalPlanner(fake, FPS)
    values = [1.0, np.nan, 3.0]
    frames = [Observation({"observation.state": np.array([v])}, i / FPS) for i, v in enumerate(values)]
    assert isinstance(planner.plan(PlanRequest(frames[:2], np.inf, True)), NoPlan) and not fake.batches
    assert isinstance(planner.plan(PlanRequest(frames[2:], np.inf, False)), Plan)
    assert fake.batches[0]["observation.state"].ravel().tolist() == [1.0, 3.0]


def test_actions_that_are_not_finite_are_no_plan():
    fake = Fake({"observation.state": (1,)})
    fake.runner.actions = lambda chunk: np.full((1, 8, 2), np.nan)
    request = PlanRequest([Observation({"observation.state": np.zeros(1)}, 0.0)], np.inf, True)
    assert isinstance(LocalPlanner(fake, FPS).plan(request), NoPlan)


@pytest.mark.parametrize("pull", [None, "linear"])
def test_real_time_chunking_fixes_what_is_executed_until_the_plan_is_there(checkpoint: Callable, pull):
    planner = LocalPlanner(WatchedRunner(load_runner(checkpoint("ebt"))), FPS, pull=pull)
    seen = {name: np.zeros(shape, np.float32) for name, shape in planner.needs.items()}
    plans = [
        planner.plan(PlanRequest([Observation(seen, stamp)], np.inf, reset=stamp == 0, delay_s=0.25))
        for stamp in (0.0, 0.8)
    ]
    same = (plans[1].actions[:-8] == plans[0].actions[8:]).all(1)
    assert same.tolist() == ([True] * 3 + [False] * 5 if pull else [False] * 8)  # .25 s are 3 ticks


def test_without_delay_real_time_chunking_decides_as_in_simulation(checkpoint: Callable):
    plans = []
    for pull in (None, "linear"):
        planner = LocalPlanner(WatchedRunner(load_runner(checkpoint("ebt"))), FPS, pull=pull)
        seen = {name: np.zeros(shape, np.float32) for name, shape in planner.needs.items()}
        for stamp in (0.0, 0.8):
            plans.append(planner.plan(PlanRequest([Observation(seen, stamp)], np.inf, reset=stamp == 0)))
    assert np.array_equal(plans[1].actions, plans[3].actions)
