"""Twins for tests, with or without the physics of a task."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from ebt_policy.envs import environment
from ebt_policy.envs.aloha import TASKS
from ebt_policy.envs.simulated import Score, SimulatedEnv
from ebt_policy.envs.spec import EnvSpec
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig
from ebt_policy.hardware.sim.sim_robot import SimRobot

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


def quick_environment(quick: Quick, max_ticks: int = 400) -> EnvSpec:
    """The task of the twin with this simulator."""

    def env(names=(), size=(96, 96)) -> gym.Env:
        inner = SimulatedEnv(TASKS["transfer_cube"], lambda: quick, cameras=names, image_size=size)
        return gym.wrappers.TimeLimit(inner, max_ticks)

    return dataclasses.replace(environment(TASK), make=lambda render: env(), make_with_cameras=env)


def twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SimRobot]]:
    """A connected twin; with quick=, of a world without physics."""
    made = []

    def make(quick: Quick | None = None, max_ticks: int = 400, **options) -> SimRobot:
        if quick is not None:
            fake = quick_environment(quick, max_ticks)
            monkeypatch.setattr("ebt_policy.hardware.sim.sim_robot.environment", lambda name: fake)
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
