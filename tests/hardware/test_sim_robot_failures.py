"""Options that a twin refuses, and a failing simulation, which is reported and cleaned up."""

import threading
from pathlib import Path

import numpy as np
import pytest
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError
from sim_twin import START, TASK, Quick, eventually, joints

from ebt_policy.envs.simulated import Diverged
from ebt_policy.errors import UserError
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig
from ebt_policy.hardware.sim.sim_robot import SimRobot


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "nowhere"}, "Unknown environment 'nowhere'"),
        ({"task": f"{TASK}+earthquake"}, "Unknown disturbance 'earthquake'"),
        (
            {"task": "robosuite_lift"},
            "actions of robosuite_lift are none.*aloha_transfer_cube, aloha_insertion",
        ),
        ({"task": "pusht_keypoints+push"}, "actions of pusht_keypoints are none"),
        ({"sim_cameras": ["wrist"]}, "no camera 'wrist'. It has: top"),
        ({"camera_fps": 0.0}, "camera_fps is 0.0"),
    ],
)
def test_what_it_cannot_be_is_refused_by_name(tmp_path: Path, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        SimRobot(SimRobotConfig(calibration_dir=tmp_path, **options))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"left_knee.pos": 0.0}, "no joint for 'left_knee.pos'"),
        ({"left_waist": 0.0}, "no joint for 'left_waist'"),
        ({"left_waist.pos": float("nan")}, "target of 'left_waist.pos' is nan"),
    ],
)
def test_a_bad_command_is_refused_and_the_last_one_held(twin, action: dict, message: str):
    robot = twin(Quick(), realtime=False)
    with pytest.raises(UserError, match=message):
        robot.send_action({"right_waist.pos": 0.3} | action)
    robot.clock.sleep_until(0.1)
    assert np.array_equal(joints(robot.get_observation()), START)


def test_it_minds_whether_it_is_connected(twin):
    robot = twin(Quick(), realtime=False)
    with pytest.raises(DeviceAlreadyConnectedError):
        robot.connect()
    robot.disconnect()
    robot.clock.sleep_until(1.0)  # nothing is left to move
    for use in (
        robot.get_observation,
        lambda: robot.send_action({}),
        lambda: robot.reset(0),
        robot.disconnect,
    ):
        with pytest.raises(DeviceNotConnectedError):
            use()
    robot.connect()
    assert robot.ticks == 0


@pytest.mark.parametrize("quick", [Quick(), Quick(fails=RuntimeError("no"))])
def test_its_thread_ends_with_the_connection(twin, quick: Quick):
    before = set(threading.enumerate())
    robot = twin(quick, sim_cameras=[])
    assert eventually(lambda: robot.ticks > 1)
    assert set(threading.enumerate()) - before or quick.fails
    robot.disconnect()
    assert not set(threading.enumerate()) - before and quick.closed and robot.ticks > 1


def test_its_thread_ends_with_the_robot(twin, tmp_path: Path):
    quick = Quick()
    twin(quick).disconnect()
    robot = SimRobot(SimRobotConfig(calibration_dir=tmp_path))
    robot.connect()
    before = set(threading.enumerate())
    del robot
    assert eventually(lambda: len(before - set(threading.enumerate())) == 1)


@pytest.mark.parametrize("realtime", [False, True])
def test_physics_that_diverges_ends_the_episode_unsolved(twin, realtime: bool):
    robot = twin(Quick(fails=Diverged("too fast")), realtime=realtime)
    robot.clock.sleep_until(robot.clock.now() + 0.2)
    assert eventually(lambda: robot.finished) and not robot.success and robot.ticks == 3
    robot.get_observation()
    robot.send_action({})
    robot.reset(1)
    assert robot.ticks < 3


def test_a_simulation_that_fails_is_finished_and_says_why(twin):
    robot = twin(Quick(fails=RuntimeError("no more memory")))
    assert eventually(lambda: robot.finished) and not robot.success
    for use in (robot.get_observation, lambda: robot.send_action({})):
        with pytest.raises(DeviceNotConnectedError, match="no more memory.*connect again"):
            use()
    with pytest.raises(RuntimeError, match="no more memory"):
        robot.reset(0)
    assert robot.is_connected
    robot.disconnect()


def test_a_world_that_cannot_be_made_leaves_nothing_behind(twin, tmp_path: Path):
    quick = Quick()
    twin(quick).disconnect()
    quick.reset = lambda seed: (_ for _ in ()).throw(UserError("Install the extra"))
    before = threading.active_count()
    for realtime in (True, False):
        robot = SimRobot(SimRobotConfig(calibration_dir=tmp_path, realtime=realtime))
        with pytest.raises(UserError, match="Install the extra"):
            robot.connect()
        assert not robot.is_connected and threading.active_count() == before
