"""The scripted operator: on an alarm it takes over the twin from wherever the policy left it, and finishes the task."""

import json
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.teleoperators.utils import make_teleoperator_from_config

from ebt_policy.errors import UserError
from ebt_policy.hardware import deploy as deploying
from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions, RecordOptions
from ebt_policy.hardware.control.planning import Plan, PlanRequest
from ebt_policy.hardware.sim.config_expert_teleop import ExpertTeleopConfig
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig
from ebt_policy.hardware.sim.expert_teleop import ExpertTeleop
from ebt_policy.inference.robot_contract import RobotContract

TASK = "aloha_transfer_cube"


class Lost:
    """Swings the right arm away from the cube, and alarms after half a second."""

    needs, action_size = {"observation.state": (14,), "observation.environment_state": (7,)}, 14

    def __init__(self) -> None:
        self.resets = 0

    def plan(self, request: PlanRequest) -> Plan:
        self.resets += request.reset
        frame = request.frames[-1]
        ticks = np.arange(1, 26)[:, None] / 25
        away = frame.values["observation.state"] + ticks * np.eye(14)[7] * 0.3
        alarm = frame.stamp >= 0.5 and self.resets == 1
        return Plan(away, frame.stamp, 10, 0.0, alarm=alarm, ask=alarm)

    def close(self) -> None: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gym_aloha")
    policy = Lost()
    monkeypatch.setattr(deploying, "make_planner", lambda *_: policy)
    monkeypatch.setattr(deploying, "contract_of", lambda _: RobotContract())

    def deploy(robot: dict | None = None, **options):
        config = DeployConfig(
            policy=PolicyOptions(path="run"),
            robot=SimRobotConfig(task=TASK, realtime=False, time_limit=False, **robot or {}),
            output=str(tmp_path / "out"),
            seed=3,
            **{"seconds": 20.0} | options,
        )
        return deploying.deploy(config)

    return deploy


def operator(tmp_path: Path, **options) -> ExpertTeleopConfig:
    return ExpertTeleopConfig(id="expert", calibration_dir=tmp_path, **options)


@pytest.mark.slow
def test_on_an_alarm_the_expert_takes_over_and_finishes_the_task(run, tmp_path: Path):
    record = RecordOptions(root=str(tmp_path / "data"))
    (outcome,) = run(teleop=operator(tmp_path), record=record)
    assert (outcome.end, outcome.success, outcome.asked, outcome.takeovers) == ("finished", True, 1, 1)
    data = LeRobotDataset("local/deployed", root=tmp_path / "data")
    # As LeRobot's DAgger strategy describes it.
    assert {k: data.features["intervention"][k] for k in ("dtype", "shape", "names")} == {
        "dtype": "bool",
        "shape": (1,),
        "names": None,
    }
    columns = data.hf_dataset.with_format("numpy")
    flags = np.asarray(columns["intervention"]).ravel()
    first = int(np.argmax(flags))
    assert 20 <= first <= 40 and flags[first:].all() and not flags[:first].any()
    actions = np.stack(columns["action"])
    assert np.abs(actions[first] - actions[first - 1]).max() < 0.03  # it did not jump
    assert np.abs(np.diff(actions[first:], axis=0)).max() < 0.15
    lines = [
        json.loads(line) for line in (tmp_path / "data/logs/episode_000000.jsonl").read_text().splitlines()
    ]
    kinds = [line["kind"] for line in lines if line["kind"] != "frame"]
    assert kinds[:2] == ["plan", "plan"] and {"asks", "matched", "takes_over"} <= set(kinds)


def test_it_hands_back_and_the_policy_plans_anew(run, tmp_path: Path):
    (outcome,) = run(teleop=operator(tmp_path, hands_back_after_s=1.0), seconds=1.5)
    assert (outcome.end, outcome.takeovers) == ("time", 1)
    events = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
    (back,) = [e["time"] for e in events if e["kind"] == "hands_back"]
    assert any(e["kind"] == "plan" and e["time"] >= back for e in events)


def test_without_an_operator_the_same_policy_fails(run, tmp_path: Path):
    (outcome,) = run(ask_timeout_s=1.0)
    assert (outcome.end, outcome.success) == ("unanswered", False)


def test_it_needs_the_twin_and_its_objects(run, tmp_path: Path):
    made = make_teleoperator_from_config(operator(tmp_path))
    assert isinstance(made, ExpertTeleop)
    with pytest.raises(UserError, match="--robot.type=ebt_sim"):
        made.connect()
    with pytest.raises(UserError, match="environment_state"):
        run({"environment_state": True, "poses_in_state": True}, teleop=operator(tmp_path))
