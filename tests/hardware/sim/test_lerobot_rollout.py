"""`lerobot-rollout` moves the twin with the shipped policy."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.data.split_state import SplitStateProcessorStep
from ebt_policy.errors import UserError
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig
from ebt_policy.hardware.sim.sim_robot import SimRobot
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.processor_ebt import make_ebt_pre_post_processors

TASK = "aloha_transfer_cube"


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["sync", "rtc"])
def test_lerobot_rollout_runs_the_shipped_policy_on_the_twin(tmp_path: Path, inference: str):
    pytest.importorskip("gym_aloha")
    program = Path(sys.executable).with_name("lerobot-rollout")
    arguments = [
        f"--policy.path={find_checkpoint('shipped:aloha_transfer_cube_ebt')}",
        "--policy.device=cpu",
        "--policy.max_evaluations=2",
        "--robot.type=ebt_sim",
        f"--robot.task={TASK}",
        "--robot.poses_in_state=true",
        f"--robot.calibration_dir={tmp_path}",
        f"--inference.type={inference}",
        "--fps=50",
        "--duration=3",
        "--play_sounds=false",
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, timeout=600)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-4000:]
    assert "Duration limit reached" in printed and "Returning robot to initial position" in printed
    assert "Could not return" not in printed and "Traceback" not in printed
    ticks = re.search(r"The simulated episode: (\d+) ticks", printed)
    assert ticks is not None and int(ticks[1]) > 50
    assert "RTC inference error" not in printed


def test_the_twin_names_poses_like_joints_and_cannot_be_commanded_by_them(tmp_path: Path):
    options = {"task": TASK, "realtime": False, "poses_in_state": True, "calibration_dir": tmp_path}
    robot = SimRobot(SimRobotConfig(**options))
    names = [name for name, kind in robot.observation_features.items() if kind is float]
    assert names == [*robot.action_features, *(f"environment_state.{i}.pos" for i in range(7))]
    robot.connect()
    try:
        seen = robot.get_observation()
        sent = robot.send_action(seen)  # as LeRobot does when it returns to the first pose
        assert list(sent) == list(robot.action_features)
        with pytest.raises(UserError, match="no joint for 'elsewhere.pos'"):
            robot.send_action({"elsewhere.pos": 0.0})
    finally:
        robot.disconnect()


@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_state_that_ends_in_the_environments_is_split_and_every_other_is_left(batch: tuple[int, ...]):
    step = SplitStateProcessorStep(2, 3)
    state, poses = torch.randn(*batch, 2), torch.randn(*batch, 3)
    whole = {"observation.state": torch.cat([state, poses], -1), "task": "x"}
    split = {"observation.state": state, "observation.environment_state": poses}
    found = step.observation(whole)
    assert set(found) == {*split, "task"} and all(torch.equal(found[name], split[name]) for name in split)
    for left in (split, {"observation.state": state}, {"observation.images.top": poses}):
        assert step.observation(left) is left


def test_policies_with_an_environment_state_get_the_step_and_it_survives_saving(tmp_path: Path):
    config = EBTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (3,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        device="cpu",
    )
    preprocessor, _ = make_ebt_pre_post_processors(config)
    preprocessor.save_pretrained(tmp_path)
    loaded = type(preprocessor).from_pretrained(tmp_path, config_filename="policy_preprocessor.json")
    assert loaded.steps[0] == SplitStateProcessorStep(2, 3)
    both = loaded({"observation.state": torch.zeros(5)})
    assert both["observation.state"].shape == (1, 2)
    assert both["observation.environment_state"].shape == (1, 3)
    del config.input_features["observation.environment_state"]
    assert len(make_ebt_pre_post_processors(config)[0].steps) == len(preprocessor.steps) - 1
