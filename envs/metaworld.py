"""Meta-World (package metaworld, MIT): a Sawyer arm, 50 tasks on a table; displacements of the hand at 80 Hz.

`metaworld_door_open` is one task. In `metaworld_mt10` and `metaworld_mt50` the seed says which: task number seed % 10 or
seed % 50, so consecutive seeds go through all of them. Sentences are LeRobot's. As in the multi-task protocol (MT10, MT50) the
goal is observed, an episode lasts 500 ticks, and it is solved when the package reports success once. Where objects and goals lie
is drawn from the seed, in the package's own ranges; its protocol has 50 fixed draws for each task.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from functools import cache, partial
from importlib import resources
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbance_spec import DisturbanceSpec
from ebt_policy.envs.mujoco_objects import MujocoObjects
from ebt_policy.envs.rendering import opengl_explained
from ebt_policy.envs.simulated import EnvOptions, Score, TaskSpec, make_env, simulated_spec
from ebt_policy.envs.spec import EnvSpec
from ebt_policy.errors import UserError
from ebt_policy.extras import missing_extra
from ebt_policy.suggestions import did_you_mean

FPS, MAX_TICKS, USUAL_TICKS = 80, 500, 81
PREFIX, VERSION = "metaworld_", "-v3"
OBJECTS = 2  # the package's observation has room for two
UPSIDE_DOWN = "corner4"  # LeRobot's view, turned by it and by us

_XYZ, _WXYZ = ("x", "y", "z"), ("q1", "q2", "q3", "q4")
STATE_NAMES = (*(f"hand_{axis}" for axis in _XYZ), "gripper_opening")
ENVIRONMENT_NAMES = (
    *(f"object{number}_{part}" for number in range(1, OBJECTS + 1) for part in (*_XYZ, *_WXYZ)),
    *(f"goal_{axis}" for axis in _XYZ),
)
ACTION_NAMES = (*(f"hand_d{axis}" for axis in _XYZ), "gripper_force")
NAMES = {
    "observation.state": STATE_NAMES,
    "observation.environment_state": ENVIRONMENT_NAMES,
    "action": ACTION_NAMES,
}
MT10 = (
    "reach",
    "push",
    "pick_place",
    "door_open",
    "drawer_open",
    "drawer_close",
    "button_press_topdown",
    "peg_insert_side",
    "window_open",
    "window_close",
)


@cache
def sentences() -> dict[str, str]:
    """{task: sentence} of the 50 tasks, in the order and wording of LeRobot."""
    file = resources.files("lerobot.envs") / "metaworld_config.json"
    texts = json.loads(file.read_text("utf-8"))["TASK_DESCRIPTIONS"]
    return {name.removesuffix(VERSION).replace("-", "_"): text for name, text in texts.items()}


def members(task: str) -> tuple[str, ...]:
    """The tasks of `mt10` or `mt50`, or the task itself."""
    return {"mt10": MT10, "mt50": tuple(sentences())}.get(task, (task,))


def _task_spec(task: str) -> TaskSpec:
    several = len(members(task)) > 1
    return TaskSpec(
        name=task,
        description=f"One of {len(members(task))} tasks, by the seed." if several else sentences()[task],
        fps=FPS,
        max_ticks=MAX_TICKS,
        usual_ticks=USUAL_TICKS,
        state_size=len(STATE_NAMES),
        environment_size=len(ENVIRONMENT_NAMES),
        low=(-1.0,) * len(ACTION_NAMES),
        high=(1.0,) * len(ACTION_NAMES),
        cameras=(UPSIDE_DOWN, "topview", "gripperPOV"),
    )


TASKS = {task: _task_spec(task) for task in ("mt10", "mt50", *sentences())}

_ONE_OF_MANY = "the objects differ between the tasks, and their bodies have no common names"
DISTURBANCES = DisturbanceSpec(
    regions={},
    workspace=(-0.4, 0.4, 0.4, 1.0),
    targets=(),
    shift=0.0,
    turn=0.0,
    start_margin=0.0,
    noise=(*[*[0.01] * 3, *[0.0] * 4] * OBJECTS, *[0.0] * 3),
    absolute_actions=False,
    grippers=(3,),
    open_gripper=-1.0,
    refused=dict.fromkeys(("push", "teleport", "start", "mass", "friction", "target"), _ONE_OF_MANY),
)


def classes() -> dict[str, Any]:
    """The package's environments, by its own names of the tasks. Raises UserError where it is not installed."""
    try:
        with opengl_explained():
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise missing_extra("metaworld", "Meta-World") from error
    return dict(ALL_V3_ENVIRONMENTS)


def package_name(task: str) -> str:
    """door_open -> door-open-v3."""
    return task.replace("_", "-") + VERSION


class MetaworldSimulator:
    """One or several tasks in the package's simulators, each created when a seed first needs it.

    task, sentence: of the present episode. env, observed: the package's environment and its last observation, for experts.
    """

    def __init__(self, task: str, shadows: bool = True) -> None:
        """shadows: with shadows and reflections, as the package draws; without, a picture takes a quarter of the time."""
        self._shadows = shadows
        self._tasks, self._classes = members(task), classes()
        self._envs: dict[str, Any] = {}
        self._renderers: dict[tuple[str, int, int], Any] = {}
        self._solved = False

    def reset(self, seed: int) -> None:
        self.task = self._tasks[seed % len(self._tasks)]
        self.sentence = sentences()[self.task]
        if self.task not in self._envs:
            self._envs[self.task] = self._made(self.task)
        self.env = self._envs[self.task]
        self.env.seed(seed)
        self.observed: NDArray[np.float64] = self.env.reset(seed=seed)[0]
        self._solved = False
        self.objects = MujocoObjects(self.env.model, self.env.data, ())
        self.objects.home()

    def _made(self, task: str) -> Any:
        env = self._classes[package_name(task)]()
        # What set_task does for the benchmark's fixed draws; here the seed draws anew, as in LeRobot's environment.
        env._set_task_called, env._freeze_rand_vec, env.seeded_rand_vec = True, False, True
        env._partially_observable = False  # the goal is observed
        env.__dict__.pop("sawyer_observation_space", None)  # cached; observations are clipped to it
        env.max_path_length = 10**9  # the time limit is the wrapper's
        return env

    def tick(self, action: NDArray[np.float64]) -> None:
        self.observed, _, _, _, info = self.env.step(np.clip(action, -1, 1).astype(np.float32))
        self._solved = bool(info["success"])

    def state(self) -> NDArray[np.float64]:
        claws = (self.env.data.body(name).xpos for name in ("rightclaw", "leftclaw"))
        opening = np.linalg.norm(np.subtract(*claws)) / 0.1  # the package's scale: about 1 when open
        return np.array([*self.env.get_endeff_pos(), min(opening, 1.0)])

    def environment_state(self) -> NDArray[np.float64]:
        """Position and orientation of each object, zeros where there is no second one, then the goal."""
        places = np.reshape(self.env._get_pos_objects(), (-1, 3))
        turns = np.reshape(self.env._get_quat_objects(), (-1, 4))
        poses = np.zeros((OBJECTS, 7))
        poses[: len(places), :3], poses[: len(turns), 3:] = places, turns
        return np.concatenate([poses.ravel(), self.env._get_pos_goal()])

    def score(self) -> Score:
        return Score(float(self._solved), self._solved)

    def picture(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        key = (self.task, height, width)
        if key not in self._renderers:
            self._renderers[key] = self._renderer(height, width)
        self._renderers[key].update_scene(self.env.data, camera=camera)
        picture = self._renderers[key].render()
        return picture[::-1, ::-1].copy() if camera == UPSIDE_DOWN else picture

    def _renderer(self, height: int, width: int) -> Any:
        mujoco: Any = importlib.import_module("mujoco")  # type checkers do not know its flags
        if not self._shadows:
            self.env.model.vis.quality.shadowsize = 0
        renderer = mujoco.Renderer(self.env.model, height, width)
        if not self._shadows:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = 0
        return renderer

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        for env in self._envs.values():
            env.close()
        self._envs.clear()


def make(task: str, **options: Unpack[EnvOptions]) -> gym.Env:
    """A new env; see `make_env`. Pictures that no policy sees have no shadows."""
    simulator = partial(MetaworldSimulator, task, shadows=bool(options.get("cameras")))
    return make_env(TASKS[task], simulator, "metaworld", options)


def _hold(state: NDArray, last_action: NDArray | None) -> NDArray:
    """The action that does not move the hand and keeps the gripper's force."""
    action = np.zeros(len(ACTION_NAMES), np.float32)
    action[-1] = -1.0 if last_action is None else last_action[-1]
    return action


def spec_of(name: str) -> EnvSpec:
    """The environment metaworld_<task>. Raises UserError for an unknown task."""
    task = name.removeprefix(PREFIX)
    if task not in TASKS:
        known = list(TASKS)
        raise UserError(
            f"Meta-World has no task '{task}'.{did_you_mean(task, known)} Choose one of: {', '.join(PREFIX + t for t in known)}."
        )
    spec = simulated_spec(name, TASKS[task], partial(make, task), DISTURBANCES, _hold)
    return dataclasses.replace(
        spec, tasks=tuple(sentences()[member] for member in members(task)), names=NAMES
    )


SPECS = {name: spec_of(name) for name in (f"{PREFIX}mt10", f"{PREFIX}mt50")}
