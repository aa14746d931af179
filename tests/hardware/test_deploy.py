"""`deploy` on the twin: results equal an evaluation's, the written files, and refusals before anything moves."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions
from ebt_policy.hardware.control.commands import Commands
from ebt_policy.hardware.deploy import deploy, deploying
from ebt_policy.hardware.planners import local_planner
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig
from ebt_policy.hardware.sim.sim_robot import SimRobot
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.inference.runner import load_runner

TASK, POLICY = "aloha_transfer_cube", "shipped:aloha_transfer_cube_ebt"


def config(output: Path, policy: PolicyOptions | None = None, **options) -> DeployConfig:
    """On the twin in lockstep."""
    return DeployConfig(
        policy=policy or PolicyOptions(path=POLICY),
        robot=SimRobotConfig(task=TASK, realtime=False),
        output=str(output),
        **options,
    )


def strict(text: str):
    """JSON has no NaN and no Infinity."""

    def refused(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refused)


def played(output: Path, seeds: Sequence[int]) -> list[tuple[bool, int]]:
    """(success, ticks) of each seed, deployed."""
    found = []
    with deploying(config(output), Commands()) as deployed:
        assert deployed.twin is not None
        for seed in seeds:
            deployed.twin.reset(seed)
            deployed.arm.begin()
            deployed.planner.seed = seed
            assert deployed.loop.run(60.0).end == "finished"
            found.append((deployed.twin.success, deployed.twin.ticks))
    return found


def evaluated(seeds: Sequence[int]) -> list[tuple[bool, int]]:
    """Each alone, since sums in a batch are rounded otherwise."""
    runner = load_runner(POLICY)
    episodes = [rollout(runner, TASK, [seed])[0] for seed in seeds]
    return [(episode.success, episode.ticks) for episode in episodes]


def test_an_episode_goes_as_in_an_evaluation_and_its_files_say_so(tmp_path: Path):
    (outcome,) = deploy(config(tmp_path, seed=104))
    ((success, ticks),) = evaluated([104])
    assert (outcome.end, outcome.success) == ("finished", success)
    assert round(outcome.seconds * 50) == ticks

    (episode,) = strict((tmp_path / "episodes.json").read_text())
    assert (episode["end"], episode["success"], episode["plans"]) == ("finished", success, outcome.plans)
    run = strict((tmp_path / "run.json").read_text())
    assert run["config"]["policy"]["path"] == POLICY
    events = [strict(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    plans = [event for event in events if event["kind"] == "plan"]
    assert len(plans) == outcome.plans
    assert all(plan["evaluations"] == 2 for plan in plans)
    assert plans[0]["energy"] is None and all(np.isfinite(plan["energy"]) for plan in plans[1:])


@pytest.mark.slow
def test_twenty_episodes_go_as_in_an_evaluation(tmp_path: Path):
    seeds = range(100, 120)
    assert played(tmp_path, seeds) == evaluated(seeds)


@pytest.mark.parametrize("speed", [1.0, 0.5])
def test_at_any_speed_a_plan_is_carried_on_by_what_was_executed_of_it(
    speed: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    carried: list[int] = []

    class Spy(PlanMemory):
        def at(self, tick):
            found = super().at(tick)
            if found is not None:
                carried.append(round(float(tick - self._ticks[0])))
            return found

    monkeypatch.setattr(local_planner, "PlanMemory", Spy)
    policy = PolicyOptions(path=POLICY, n_action_steps=8)
    (outcome,) = deploy(config(tmp_path, policy, speed=speed, seconds=0.5))
    assert outcome.plans == np.ceil(0.5 * 50 * speed / 8)
    assert carried == [8] * (outcome.plans - 1)


def test_what_was_not_measured_is_null(tmp_path: Path):
    deploy(config(tmp_path, seconds=0.0))
    (episode,) = strict((tmp_path / "episodes.json").read_text())
    assert episode["punctuality"]["jitter"]["median"] is None
    assert episode["plans"] == 0


@pytest.mark.parametrize(
    ("policy", "options", "named"),
    [
        (PolicyOptions(), {}, ("--policy.path", "--policy.server")),
        (PolicyOptions(path=POLICY, server="ws://127.0.0.1:1"), {}, ("--policy.path", "--policy.server")),
        (PolicyOptions(path="shipped:nothing"), {}, ("nothing", "aloha_transfer_cube_ebt")),
        (PolicyOptions(path=POLICY, stop="soon"), {}, ("soon", "budget", "energy")),
        (PolicyOptions(path=POLICY, stop="energy"), {}, ("--policy.calibration",)),
        (PolicyOptions(path=POLICY, set={"widht": 3}), {}, ("widht", "width")),
        (None, {"speed": 0.0}, ("--speed is 0",)),
        (None, {"speed": -1.0}, ("--speed is -1",)),
        (None, {"speed": 1.5}, ("--speed is 1.5",)),
        (PolicyOptions(path="shipped:pusht_keypoints_ebt"), {}, ("2 joints", "14", "left_waist")),
    ],
)
def test_wrong_options_are_refused_before_anything_moves(
    policy: PolicyOptions | None, options: dict, named: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sent = []
    monkeypatch.setattr(SimRobot, "send_action", lambda self, action: sent.append(action))
    with pytest.raises(UserError) as error:
        deploy(config(tmp_path, policy, **options))
    for part in named:
        assert part in str(error.value)
    assert not sent
