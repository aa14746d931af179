"""The twin: the same world as the simulated task's env, at the pace of a clock."""

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from ebt_policy.envs import environment
from ebt_policy.envs.aloha import TASKS
from ebt_policy.envs.simulated import Diverged, Score, SimulatedEnv
from ebt_policy.errors import UserError
from ebt_policy.hardware.clock import SteppedClock, WallClock
from ebt_policy.hardware.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.config_sim_robot import SimRobotConfig
from ebt_policy.hardware.safe_robot import SafeRobot
from ebt_policy.hardware.sim_robot import SimRobot

TASK = "aloha_transfer_cube"
START = np.linspace(-0.5, 0.5, 14)
# Radians per second, as a twin needs around it where an arm has degrees.
GENTLE = {"fps": 50.0, "velocity": 3.0, "acceleration": 12.0, "start_gate": 0.5, "ramp_s": 0.0}


class Quick:
    """A simulator without physics: the arm is at once where it is told. Solved at tick `solved_at`."""

    def __init__(self, tick_s: float = 0.0, solved_at: int = 10**9, fails: Exception | None = None) -> None:
        self.tick_s, self.solved_at, self.fails = tick_s, solved_at, fails
        self.ticks, self.all_ticks, self.at, self.closed = 0, 0, START.copy(), False
        self.threads: set[int] = set()

    def reset(self, seed: int) -> None:
        self.ticks, self.at, self.seed = 0, START.copy(), seed

    def tick(self, action: np.ndarray) -> None:
        self.threads.add(threading.get_ident())
        self.ticks += 1
        self.all_ticks += 1
        time.sleep(self.tick_s)
        if self.fails is not None and self.ticks == 3:
            raise self.fails
        self.at = action.copy()

    def state(self) -> np.ndarray:
        return self.at

    def environment_state(self) -> np.ndarray:
        return np.full(7, float(self.ticks))

    def score(self) -> Score:
        return Score(0.0, self.ticks == self.solved_at)

    def picture(self, camera: str, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), self.ticks, np.uint8)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A connected twin; with quick=, of a world without physics."""
    made = []

    def make(quick: Quick | None = None, max_ticks: int = 400, **options) -> SimRobot:
        if quick is not None:
            spec = environment(TASK)

            def env(names=(), size=(96, 96)) -> gym.Env:
                inner = SimulatedEnv(TASKS["transfer_cube"], lambda: quick, cameras=names, image_size=size)
                return gym.wrappers.TimeLimit(inner, max_ticks)

            fake = dataclasses.replace(spec, make=lambda render: env(), make_with_cameras=env)
            monkeypatch.setattr("ebt_policy.hardware.sim_robot.environment", lambda name: fake)
        else:
            pytest.importorskip("gym_aloha")
        robot = SimRobot(SimRobotConfig(id="twin", calibration_dir=tmp_path, **options))
        made.append(robot)
        robot.connect()
        return robot

    yield make
    for robot in made:
        if robot.is_connected:
            robot.disconnect()


def joints(observation: dict) -> np.ndarray:
    """(14,)"""
    return np.array([value for key, value in observation.items() if key.endswith(".pos")])


def poses(observation: dict) -> np.ndarray:
    """(E,)"""
    return np.array([value for key, value in observation.items() if key.startswith("environment_state.")])


def command(robot: SimRobot, values) -> dict[str, float]:
    return dict(zip(robot.action_features, map(float, values), strict=True))


def eventually(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def follow(robot: SimRobot, actions: np.ndarray) -> list[np.ndarray]:
    """What is observed before each action (T, A), and after the last."""
    seen, begin = [], robot.clock.now()
    for k, action in enumerate(actions):
        observation = robot.get_observation()
        seen.append(np.concatenate([joints(observation), poses(observation)]))
        robot.send_action(command(robot, action))
        robot.clock.sleep_until(begin + (k + 1) / robot.fps)
    observation = robot.get_observation()
    return [*seen, np.concatenate([joints(observation), poses(observation)])]


def stepped(env: gym.Env, seed: int, actions: np.ndarray) -> tuple[list[np.ndarray], bool]:
    """The same of the env itself, and whether it was solved."""
    observation, _ = env.reset(seed=seed)
    seen, solved, over = [observation], False, False
    for action in actions:
        if not over:
            observation, _, terminated, truncated, info = env.step(action)
            solved, over = solved or info["is_success"], terminated or truncated
        seen.append(observation)
    return [np.concatenate([o["agent_pos"], o["environment_state"]]) for o in seen], solved


# -- parity ------------------------------------------------------------------------------------------------------------
def test_it_is_bit_for_bit_the_env(twin):
    robot = twin(realtime=False)
    env = environment(TASK).make(False)

    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 2**20))
    def holds(seed: int) -> None:
        rng = np.random.default_rng(seed)
        start, _ = env.reset(seed=seed)
        steps = rng.normal(0, 0.02, (60, 14)).cumsum(0).cumsum(0) * 0.3  # smooth
        actions = np.clip(start["agent_pos"] + steps, -1.5, 1.5).astype(np.float32)  # as policies give them
        expected, solved = stepped(env, seed, actions)
        robot.reset(seed)
        seen = follow(robot, actions)
        assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))
        assert robot.success == solved and robot.ticks == len(actions)

    holds()
    env.close()


@pytest.mark.parametrize("name", [TASK, f"{TASK}+push", f"{TASK}+delay"])
def test_a_demonstration_ends_as_in_the_env(twin, name: str):
    robot = twin(task=name, realtime=False)
    from ebt_policy.envs.collect import Collection, demonstrate

    wanted = Collection(TASK, 1, 0, 0.0)
    seed, shown = next((s, d) for s in range(10) if (d := demonstrate(wanted, s)) is not None)
    env = environment(name).make(False)
    actions = np.concatenate([shown["action"], np.repeat(shown["action"][-1:], 20, axis=0)])
    expected, solved = stepped(env, seed, actions)
    env.close()
    robot.reset(seed)
    seen = follow(robot, actions)
    assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert robot.success == solved == robot.finished
    assert solved or name != TASK


# -- the clocks --------------------------------------------------------------------------------------------------------
def test_simulated_time_takes_whole_ticks_and_loses_none():
    steps = []
    clock = SteppedClock(50, lambda: steps.append(clock.now()))
    clock.sleep_until(0.019)
    assert not steps and clock.now() == 0.019
    t = 0.0
    for _ in range(10_000):  # sums of a rounded period
        t += 0.02
        clock.sleep_until(t)
    assert len(steps) == 10_000 and steps[0] == pytest.approx(0.02) and clock.now() == pytest.approx(200)
    clock.sleep_until(1.0)  # long ago
    assert clock.now() == pytest.approx(200) and len(steps) == 10_000
    clock.sleep_until(200.01)
    clock.restart()
    clock.sleep_until(200.025)
    assert len(steps) == 10_000
    clock.sleep_until(200.03)
    assert len(steps) == 10_001


def test_the_wall_clock_never_wakes_early():
    clock = WallClock()
    late, spent = [], time.process_time()
    for k in range(60):
        due = clock.now() + 0.0003 * (k + 1)
        clock.sleep_until(due)
        late.append(clock.now() - due)
    assert min(late) >= 0
    assert np.median(late) < 0.005  # generous: of a machine that may be busy
    assert time.process_time() - spent < 0.25  # of .55 s
    clock.sleep_until(clock.now() - 1)


def test_the_wall_is_kept_up_with(twin):
    """Generous: the machine may be busy, and a late tick stretches time."""
    quick = Quick()
    robot = twin(quick)
    begin, ticks = time.monotonic(), robot.ticks
    assert eventually(lambda: time.monotonic() - begin > 1.0)
    rate = (robot.ticks - ticks) / (time.monotonic() - begin)
    assert rate < 53 and (rate > 40 or robot.slow_ticks)
    assert quick.threads and threading.get_ident() not in quick.threads


def test_what_physics_cannot_keep_up_with_is_counted_not_skipped(twin):
    quick = Quick(tick_s=0.05)
    robot = twin(quick)
    assert eventually(lambda: robot.slow_ticks >= 5)
    robot.disconnect()
    assert robot.ticks == quick.all_ticks <= robot.slow_ticks + 1


# -- the arm -----------------------------------------------------------------------------------------------------------
def test_it_holds_its_pose_until_a_command_comes(twin):
    robot = twin(realtime=False)
    start = joints(robot.get_observation())
    robot.clock.sleep_until(1.0)
    settled = joints(robot.get_observation())
    robot.clock.sleep_until(4.0)
    still = joints(robot.get_observation())
    assert robot.ticks == 200 and not robot.finished
    assert np.abs(settled - start).max() < 0.1  # its servos give way under its weight
    assert np.abs(still - settled).max() < 0.005  # and it sinks no further


def test_it_holds_the_last_command_and_each_joint_its_own(twin):
    robot = twin(Quick(), realtime=False)
    robot.send_action({"left_waist.pos": 0.25})
    robot.clock.sleep_until(0.1)
    sent = robot.send_action({"right_gripper.pos": np.float32(1)})
    robot.clock.sleep_until(0.2)
    seen = robot.get_observation()
    expected = START.copy()
    expected[[0, 13]] = 0.25, 1.0
    assert np.array_equal(joints(seen), expected)
    assert sent == {key: value for key, value in seen.items() if key.endswith(".pos")}
    assert all(type(value) is float for value in sent.values())
    robot.reset(7)
    robot.clock.sleep_until(0.3)
    assert np.array_equal(joints(robot.get_observation()), START)


def test_an_episode_is_over_when_solved_and_the_next_begins_at_a_reset(twin):
    quick = Quick(solved_at=5)
    robot = twin(quick, realtime=False)
    robot.clock.sleep_until(1.0)
    assert robot.success and robot.finished and robot.ticks == 5 == quick.all_ticks
    robot.reset(3)
    assert not robot.success and not robot.finished and robot.ticks == 0 and quick.seed == 3


def test_an_episode_is_over_when_its_time_is(twin):
    robot = twin(Quick(), max_ticks=10, realtime=False)
    robot.clock.sleep_until(1.0)
    assert robot.finished and not robot.success and robot.ticks == 10


def test_it_says_what_it_observes_and_how_far_it_may_move(twin):
    robot = twin(realtime=False)
    seen = robot.get_observation()
    assert list(seen) == list(robot.observation_features)
    assert all(type(seen[k]) is float for k, kind in robot.observation_features.items() if kind is float)
    assert list(robot.action_features)[:2] == ["left_waist.pos", "left_shoulder.pos"]
    assert len(joints(seen)) == 14 and len(poses(seen)) == 7
    ranges = robot.joint_ranges
    assert ranges["left_gripper"] == (0.0, 1.0) and ranges["right_elbow"] == pytest.approx((-1.76278, 1.6057))
    assert [f"{name}.pos" for name in ranges] == list(robot.action_features)
    assert all(low <= seen[f"{name}.pos"] <= high for name, (low, high) in ranges.items())


def test_what_no_arm_feels_can_be_left_out(twin):
    robot = twin(Quick(), realtime=False, environment_state=False)
    assert set(robot.get_observation()) == set(robot.action_features) == set(robot.observation_features)


# -- cameras -----------------------------------------------------------------------------------------------------------
def test_cameras_have_their_own_rate(twin, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUJOCO_GL", "any")  # nothing is drawn
    robot = twin(Quick(), realtime=False, sim_cameras=["top"], image_size=(4, 6), camera_fps=10)
    assert robot.observation_features["top"] == (4, 6, 3)
    drawn = []
    for k in range(11):
        robot.clock.sleep_until(k / 50)
        picture = robot.get_observation()["top"]
        drawn.append(picture[0, 0, 0])
        picture[:] = 99  # its own copy
    assert drawn == [0] * 5 + [5] * 5 + [10]


# In a process of its own: MuJoCo chooses OpenGL when it is first imported, and another test may have done that.
_PICTURES = """
import sys, time
from pathlib import Path
import numpy as np
import ebt_policy.registration
from ebt_policy.envs import environment
from ebt_policy.hardware.config_sim_robot import SimRobotConfig
from ebt_policy.hardware.sim_robot import SimRobot

SimRobot(SimRobotConfig(calibration_dir=Path(sys.argv[1])))
assert not {"mujoco", "dm_control", "gym_aloha"} & set(sys.modules)  # not before it connects
env = environment("aloha_transfer_cube").make_with_cameras(("angle",), (24, 32))
wanted = env.reset(seed=4)[0]["pixels"]["angle"].astype(int)
env.close()
for realtime in (False, True):
    config = SimRobotConfig(
        calibration_dir=Path(sys.argv[1]), realtime=realtime, sim_cameras=["angle"], image_size=(24, 32), seed=4
    )
    with SimRobot(config) as robot:
        first = robot.get_observation()["angle"]
        robot.send_action({"left_waist.pos": 1.0, "right_waist.pos": -1.0})
        end = time.monotonic() + 30
        while np.abs(robot.get_observation()["angle"] - wanted).mean() < 5 and time.monotonic() < end:
            robot.clock.sleep_until(robot.clock.now() + 0.1)
        moved = robot.get_observation()["angle"]
        robot.reset(4)
        again = robot.get_observation()["angle"]
    print(*(np.abs(picture - wanted).mean() for picture in (first, moved, again)))
"""


@pytest.mark.slow
def test_pictures_are_those_of_the_env_and_of_their_episode(tmp_path: Path):
    pytest.importorskip("gym_aloha")
    from ebt_policy.envs.rendering import find_backend

    try:
        find_backend()
    except UserError as error:
        pytest.skip(str(error))
    done = subprocess.run([sys.executable, "-c", _PICTURES, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lockstep, realtime = (tuple(map(float, line.split())) for line in done.stdout.splitlines())
    assert lockstep[0] == lockstep[2] == 0 and lockstep[1] >= 5
    # A few ticks may have passed before the picture was looked at, under which the arm sinks by a hair.
    assert realtime[0] < 1 and realtime[2] < 1 and realtime[1] >= 5


def test_a_process_that_cannot_draw_any_more_is_told_so(twin, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(UserError, match="Set MUJOCO_GL"):
        twin(sim_cameras=["top"])


# -- refusals and failures ---------------------------------------------------------------------------------------------
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


# -- in LeRobot's commands and behind the filter -----------------------------------------------------------------------
def test_lerobot_makes_it_by_its_type_and_options(tmp_path: Path):
    import draccus
    from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig  # noqa: F401
    from lerobot.robots.config import RobotConfig
    from lerobot.robots.utils import make_robot_from_config

    @dataclasses.dataclass
    class Command:  # as LeRobot's are
        robot: RobotConfig

    given = [
        "--robot.type=ebt_sim",
        f"--robot.task={TASK}+push:0.5",
        f"--robot.calibration_dir={tmp_path}",
        "--robot.sim_cameras=[top]",
        "--robot.image_size=[24, 32]",
        "--robot.cameras={desk: {type: opencv, index_or_path: desk.png, width: 8, height: 6, fps: 30}}",
    ]
    robot = make_robot_from_config(draccus.parse(Command, args=given).robot)
    assert isinstance(robot, SimRobot) and isinstance(robot.cameras["desk"], OpenCVCamera)
    assert robot.observation_features["desk"] == (6, 8, 3)
    assert robot.observation_features["top"] == (24, 32, 3)


def test_it_runs_behind_the_safety_filter(twin, tmp_path: Path):
    robot = twin(realtime=False)
    ranges = robot.joint_ranges
    robot.disconnect()
    config = SafeRobotConfig(
        robot={"type": "ebt_sim", "task": TASK, "realtime": False, "calibration_dir": str(tmp_path)},
        calibration_dir=tmp_path,
        speed_scale=1.0,
        **GENTLE,
    )
    assert isinstance(SafeRobot(config).robot, SimRobot)  # from its options
    safe = SafeRobot(config, robot, robot.clock.now)
    safe.connect()
    assert safe.filter is not None
    kept = np.ptp([*ranges.values()], axis=1) * config.margin
    assert np.allclose(safe.filter.limits.low, [low for low, _ in ranges.values()] + kept)
    start = joints(safe.get_observation())
    sent = []
    for k in range(100):
        safe.send_action(command(robot, start + 0.4 * np.eye(14)[0]))
        sent.append(robot.send_action({})["left_waist.pos"])
        robot.clock.sleep_until(robot.clock.now() + 1 / robot.fps)
        assert robot.ticks == k + 1
    assert 0 < np.diff([0, *sent]).max() <= 3.0 / 50 + 1e-9
    assert safe.get_observation()["left_waist.pos"] == pytest.approx(0.4, abs=0.02)
    assert not safe.stopped
    safe.disconnect()
    assert not robot.is_connected
