"""`deploy` on an arm: between episodes, after stops and faults, and refusals before it moves."""

import io
import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_arm import FakeArm, FakeArmConfig
from fake_leader import FakeLeader
from fake_recording import Full
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.errors import UserError
from ebt_policy.hardware import deploy as deploying
from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions, RecordOptions, TakeoverOptions
from ebt_policy.hardware.control.commands import Command, Commands
from ebt_policy.hardware.control.planning import Plan, PlanRequest
from ebt_policy.hardware.planners.make import contract_of
from ebt_policy.hardware.recording import recording
from ebt_policy.hardware.recording.recorder import Recorder
from ebt_policy.hardware.safety.config_safe_robot import SafetyOptions
from ebt_policy.inference.robot_contract import RobotContract


class Still:
    """Plans to stay."""

    needs, action_size = {"observation.state": (3,)}, 3

    def plan(self, request: PlanRequest) -> Plan:
        here = request.frames[-1].values["observation.state"]
        return Plan(np.tile(here, (20, 1)), request.frames[-1].stamp, 10, 0.0)

    def close(self) -> None:
        """Nothing to give back."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def arm(tmp_path: Path) -> FakeArm:
    return FakeArm(FakeArmConfig(id="fake", calibration_dir=tmp_path))


@pytest.fixture
def run(arm: FakeArm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Deploys on the arm; `expected` is what the checkpoint says."""
    monkeypatch.setattr(deploying, "make_planner", lambda *_: Still())

    def deploy(expected: RobotContract | None = None, teleop_device: FakeLeader | None = None, **options):
        monkeypatch.setattr(deploying, "contract_of", lambda _: expected or RobotContract())
        given = {"seconds": 0.2, "patience_s": 0.1, "safety": SafetyOptions(watchdog_s=0.05)} | options
        config = DeployConfig(policy=PolicyOptions(path="run"), output=str(tmp_path / "run"), **given)
        return deploying.deploy(config, robot=arm, teleop=teleop_device)

    return deploy


def test_without_a_terminal_further_episodes_need_an_explicit_option(run, arm: FakeArm, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(UserError, match=r"--episodes is 2.*--unattended=true"):
        run(episodes=2)
    assert not arm.calls and not arm.sent
    assert len(run(episodes=2, unattended=True)) == 2


def test_a_stop_without_a_terminal_ends_the_session_and_says_so(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(deploying, "Commands", lambda: posted)
    posted = Commands()
    posted.post(Command.STOP)
    posted.post(Command.FAILURE)
    assert [outcome.end for outcome in run(episodes=3, unattended=True)] == ["failure"]
    assert "arm is stopped, and without a terminal nobody can reset it" in capsys.readouterr().out


def test_after_stop_and_failure_r_lifts_the_stop_and_begins_the_next(run, arm: FakeArm, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal())
    posted = Commands()
    monkeypatch.setattr(deploying, "Commands", lambda: posted)
    monkeypatch.setattr(deploying, "time", SimpleNamespace(sleep=lambda _: posted.post(Command.RESET)))
    posted.post(Command.STOP)
    posted.post(Command.FAILURE)
    first, second = run(episodes=2)
    assert (first.end, second.end) == ("failure", "time") and second.plans
    assert "The arm is stopped. Put the scene back. r: reset the stop and begin" in capsys.readouterr().out


def test_keys_of_the_episode_before_do_not_begin_or_end_the_next(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal())
    posted, asked = Commands(), []
    monkeypatch.setattr(deploying, "Commands", lambda: posted)

    def answer(_: float) -> None:
        asked.append(capsys.readouterr().out)
        posted.post(Command.RESET)
        posted.post(Command.SUCCESS)  # a finger on the wrong key: not of the episode that begins

    monkeypatch.setattr(deploying, "time", SimpleNamespace(sleep=answer))
    after_the_first(monkeypatch, posted, Command.RESET, Command.SUCCESS)
    assert [outcome.end for outcome in run(episodes=2)] == ["time", "time"]
    assert len(asked) == 1 and "begin the next episode" in asked[0]


def after_the_first(monkeypatch: pytest.MonkeyPatch, commands: Commands, *keys: Command) -> None:
    """Keys that are pressed when the first episode has ended, and before anybody is asked about the next."""
    left = list(keys)
    write = deploying._write

    def pressed(*arguments) -> None:
        write(*arguments)
        while left:
            commands.post(left.pop(0))

    monkeypatch.setattr(deploying, "_write", pressed)


@pytest.mark.parametrize("key", [Command.QUIT, Command.STOP])
def test_a_stop_and_an_end_that_came_between_are_obeyed(run, monkeypatch, capsys, key: Command):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    posted = Commands()
    monkeypatch.setattr(deploying, "Commands", lambda: posted)
    after_the_first(monkeypatch, posted, key, Command.RESET)
    assert [outcome.end for outcome in run(episodes=2, unattended=True)] == ["time"]
    assert ("The arm is stopped" in capsys.readouterr().out) is (key is Command.STOP)


def test_an_episode_that_ends_with_an_error_leaves_the_others_to_go_on(run, arm: FakeArm, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    read, reads = arm.get_observation, [0]

    def unreliable() -> dict:
        reads[0] += 1
        if 1 < reads[0] < 15:  # after connecting, from the first tick on
            raise ConnectionError("no status packet")
        return read()

    monkeypatch.setattr(arm, "get_observation", unreliable)
    ends = [outcome.end for outcome in run(episodes=3, unattended=True)]
    assert ends[0] == "error" and ends[-1] == "time"


def test_the_rate_of_the_data_is_taken_or_refused(run):
    trained = RobotContract(fps=50.0)
    with pytest.raises(UserError, match=r"50 ticks a second.*30.*Set --fps=50"):
        run(trained, fps=30.0)
    assert len(run(trained, fps=30.0, other_fps=True)) == 1
    assert len(run(trained)) == 1


def test_an_arm_that_does_not_answer_is_a_sentence(run, arm: FakeArm, monkeypatch):
    def unplugged(calibrate: bool = True) -> None:
        raise ConnectionError("Could not open port '/dev/ttyACM0'.")

    monkeypatch.setattr(arm, "connect", unplugged)
    with pytest.raises(UserError, match="cannot be reached: Could not open port .*lerobot-find-port"):
        run()


def test_names_of_joints_can_be_given_by_hand():
    contract = contract_of(PolicyOptions(path="shipped:pusht_keypoints_ebt", joints=["y", "x"]))
    assert contract.action_names == ("y", "x")
    with pytest.raises(UserError, match="names 3 joints.*the policy commands 2"):
        contract_of(PolicyOptions(path="shipped:pusht_keypoints_ebt", joints=["a", "b", "c"]))


def test_the_operator_takes_over_and_an_interrupted_episode_is_saved(
    run, arm: FakeArm, tmp_path, monkeypatch, capsys
):
    posted = Commands()
    monkeypatch.setattr(deploying, "Commands", lambda: posted)
    leader = FakeLeader(time.monotonic, motors=True)
    read, began = arm.get_observation, []

    def scripted() -> dict:
        seen = began[-1] if began else None
        if leader.torque and not seen:
            began.append("matching")
            posted.post(Command.TAKE_OVER)  # remembered until the leader is there
        elif seen == "matching" and not leader.torque:
            began.append(time.monotonic())
        elif isinstance(seen, float) and time.monotonic() > seen + 1.0:
            raise KeyboardInterrupt
        return read()

    monkeypatch.setattr(arm, "get_observation", scripted)
    posted.post(Command.TAKE_OVER)
    record = RecordOptions(root=str(tmp_path / "data"))
    options = TakeoverOptions(match_speed=2.0)
    with pytest.raises(KeyboardInterrupt):
        run(record=record, seconds=5.0, takeover=options, teleop_device=leader)
    assert not leader.torque and not leader.is_connected
    flags = LeRobotDataset("local/deployed", root=tmp_path / "data").hf_dataset.with_format("numpy")[
        "intervention"
    ]
    assert np.asarray(flags).sum() >= 2
    said = capsys.readouterr().out
    assert (
        "YOU DRIVE" in said and "recorded as if the arm had been 4 times as fast" in said
    )  # at a quarter, the default
    info = json.loads((tmp_path / "data" / "meta" / "info.json").read_text())
    assert info["robot_type"] == arm.name  # not the filter's: the same arm without it has the same data


def test_a_recording_that_fails_is_told_and_no_other_episode_begins(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(recording, "Recorder", partial(Recorder, open_writer=Full))
    with pytest.raises(UserError, match="Not all .* was saved. The disk under .* is full"):
        run(episodes=3, seconds=1.0, unattended=True, record=RecordOptions(root=str(tmp_path / "data")))
    said = capsys.readouterr().out
    assert "\aNOTHING MORE IS RECORDED: The disk under" in said
    assert "episode 0" in said and "episode 1" not in said


def test_an_answer_is_waited_for_at_least_a_moment(run):
    with pytest.raises(UserError, match="--ask_timeout_s is 0"):
        run(ask_timeout_s=0.0)
    with pytest.raises(UserError, match=r"--smooth_s is -0\.1"):
        run(smooth_s=-0.1)


@pytest.mark.parametrize("speed", [None, 1.0])
@pytest.mark.parametrize("scale", [0.1, 0.25])
def test_a_second_scale_of_the_speed_is_refused_and_never_overwritten(run, arm: FakeArm, speed, scale):
    with pytest.raises(UserError, match=rf"--safety.speed_scale is {scale}.*give --speed alone"):
        run(speed=speed, safety=SafetyOptions(speed_scale=scale))
    assert not arm.calls


def test_a_loop_too_slow_for_an_arm_is_refused(run, arm: FakeArm):
    with pytest.raises(UserError, match=r"--control_hz is 2; expected at least 20"):
        run(control_hz=2.0)
    assert not arm.calls
