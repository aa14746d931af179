"""robosuite's single-arm tasks with a Panda: Cartesian displacements (OSC) at 20 Hz.

Observations are taken by name. The concatenated `robot0_proprio-state` is not used: its length changes between robosuite's
versions.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.mujoco_objects import MujocoObjects
from ebt_policy.envs.rendering import opengl_explained
from ebt_policy.envs.robosuite_disturbances import DISTURBANCES
from ebt_policy.envs.simulated import EnvOptions, Score, TaskSpec, draws, make_env, simulated_spec
from ebt_policy.errors import UserError

FPS = 20
STATE_KEYS = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")  # robomimic's, 3 + 4 + 2
ACTIONS = 7  # position and rotation delta of the gripper in -1..1, and the gripper: -1 open, 1 closed


@dataclass(frozen=True)
class RobosuiteTask:
    """robosuite's name of the task, and the names of its object observations, in the order of the environment state."""

    environment: str
    keys: tuple[str, ...]


def _task(
    name: str, description: str, environment_size: int, usual_ticks: int, max_ticks: int = 400
) -> TaskSpec:
    return TaskSpec(
        name=name,
        description=description,
        fps=FPS,
        max_ticks=max_ticks,
        usual_ticks=usual_ticks,
        state_size=9,
        environment_size=environment_size,
        low=(-1.0,) * ACTIONS,
        high=(1.0,) * ACTIONS,
        cameras=("agentview", "robot0_eye_in_hand", "frontview"),
    )


# Episode lengths are robomimic's: 400 ticks, 700 for tool hang.
TASKS = {
    "Lift": _task("Lift", "Lift the cube.", 7, 55),
    "Stack": _task("Stack", "Put the red cube on the green cube.", 14, 85),
    "PickPlaceCan": _task("PickPlaceCan", "Put the can into its bin.", 7, 225),
    "NutAssemblySquare": _task("NutAssemblySquare", "Put the square nut on its peg.", 7, 139),
    # All objects of the task, as in robosuite's own demonstrations. People take 1,000 and 1,500 ticks.
    "NutAssembly": _task("NutAssembly", "Put both nuts on their pegs.", 14, 1000, max_ticks=1500),
    "PickPlace": _task("PickPlace", "Put the four objects into their bins.", 28, 1500, max_ticks=2000),
    "Door": _task("Door", "Open the door by its handle.", 8, 94),
    "ToolHang": _task("ToolHang", "Assemble the frame and hang the tool.", 21, 480, max_ticks=700),
}
ROBOSUITE = {
    "Lift": RobosuiteTask("Lift", ("cube_pos", "cube_quat")),
    "Stack": RobosuiteTask("Stack", ("cubeA_pos", "cubeA_quat", "cubeB_pos", "cubeB_quat")),
    "PickPlaceCan": RobosuiteTask("PickPlaceCan", ("Can_pos", "Can_quat")),
    "NutAssemblySquare": RobosuiteTask("NutAssemblySquare", ("SquareNut_pos", "SquareNut_quat")),
    "NutAssembly": RobosuiteTask(
        "NutAssembly", ("SquareNut_pos", "SquareNut_quat", "RoundNut_pos", "RoundNut_quat")
    ),
    "PickPlace": RobosuiteTask(
        "PickPlace",
        tuple(f"{name}_{part}" for name in ("Milk", "Bread", "Cereal", "Can") for part in ("pos", "quat")),
    ),
    "Door": RobosuiteTask("Door", ("door_pos", "handle_pos", "hinge_qpos", "handle_qpos")),
    "ToolHang": RobosuiteTask(
        "ToolHang", ("base_pos", "base_quat", "frame_pos", "frame_quat", "tool_pos", "tool_quat")
    ),
}


def _import_robosuite() -> tuple[Any, Any]:
    """Import robosuite without the hints about optional parts that it prints."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import robosuite
            from robosuite.controllers import load_composite_controller_config
    finally:
        logging.disable(logging.NOTSET)
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    return robosuite, load_composite_controller_config


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which robosuite draws from, and restore its state afterwards."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


class RobosuiteSimulator:
    """One task in robosuite."""

    def __init__(self, task: str, rendering: bool) -> None:
        try:
            with opengl_explained():
                robosuite, load_composite_controller_config = _import_robosuite()
        except ImportError as error:
            raise UserError(
                f"The robosuite tasks need robosuite ({error}). Install the extra: pip install "
                "'lerobot_policy_ebt[robosuite]'"
            ) from error
        names = ROBOSUITE[task]
        self._keys, self._disturbances = names.keys, DISTURBANCES[task]
        self._observation: dict[str, NDArray] = {}
        with _numpy_seed(0):
            self.env = robosuite.make(
                names.environment,
                robots="Panda",
                controller_configs=load_composite_controller_config(robot="Panda"),
                has_renderer=False,
                has_offscreen_renderer=rendering,
                use_camera_obs=False,
                control_freq=FPS,
                ignore_done=True,  # the time limit is the wrapper's
            )
        # robosuite reads every enabled sensor at each of the 25 physics steps of a tick: disable those not needed.
        for name in set(self.env.observation_names) - {*STATE_KEYS, *self._keys}:
            self.env.modify_observable(name, "enabled", False)

    def reset(self, seed: int) -> None:
        with _numpy_seed(seed):
            self._observation = self.env.reset()
        # robosuite makes a new model at each reset.
        sim, disturbances = self.env.sim, self._disturbances
        self.objects = MujocoObjects(
            sim.model._model, sim.data._data, tuple(disturbances.regions), disturbances.targets, self._look
        )
        self.objects.home()

    def tick(self, action: NDArray[np.float64]) -> None:
        self._observation = self.env.step(action)[0]

    def state(self) -> NDArray[np.float64]:
        return self._named(STATE_KEYS)

    def environment_state(self) -> NDArray[np.float64]:
        return self._named(self._keys)

    def _look(self) -> None:
        """Read the poses of moved objects now. Updating them through robosuite would shift the phase of its sensors."""
        for key in self._keys:
            self._observation[key] = self.env._observables[key]._sensor({})

    def _named(self, keys: tuple[str, ...]) -> NDArray[np.float64]:
        return np.concatenate([np.ravel(self._observation[key]) for key in keys])

    def score(self) -> Score:
        solved = bool(self.env._check_success())
        return Score(float(solved), solved)

    def picture(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        # OpenGL's first row is the lowest.
        return self.env.sim.render(camera_name=camera, height=height, width=width)[::-1].copy()

    def close(self) -> None:
        if self.env.sim is not None:
            self.env.sim.free()  # env.close() fails if nothing was ever rendered
            self.env.sim = None


def make(task: str, **options: Unpack[EnvOptions]) -> gym.Env:
    """A new env; see `make_env`."""
    return make_env(TASKS[task], partial(RobosuiteSimulator, task, draws(options)), "robosuite", options)


def _hold(state: NDArray, last_action: NDArray | None) -> NDArray:
    """The action that does not move the arm and repeats the last gripper command."""
    action = np.zeros(ACTIONS, np.float32)
    action[-1] = -1.0 if last_action is None else last_action[-1]
    return action


SPECS = {
    f"robosuite_{name.lower()}": simulated_spec(
        f"robosuite_{name.lower()}", task, partial(make, name), DISTURBANCES[name], _hold
    )
    for name, task in TASKS.items()
}
