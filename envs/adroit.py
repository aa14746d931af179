"""Adroit Door (gymnasium-robotics): a hand with 24 joints on an arm with 4 turns a latch and pulls a door open, at 100 Hz.

Actions are targets of the 28 joints, scaled to -1..1 over each joint's range. gymnasium-robotics' environment gives the
physics, the start distribution and the success rule: the door's hinge reaches 1.35 rad once.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stderr
from functools import cache, partial
from io import StringIO
from pathlib import Path
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbance_spec import DisturbanceSpec
from ebt_policy.envs.mujoco_objects import MujocoObjects
from ebt_policy.envs.rendering import opengl_explained
from ebt_policy.envs.simulated import Diverged, EnvOptions, Score, TaskSpec, make_env, simulated_spec
from ebt_policy.extras import missing_extra

FPS = 100
# The published 200 ticks are shorter than each of the 25 demonstrations (223 to 300); 400 leave time for a second try.
MAX_TICKS = 400
USUAL_TICKS = 200  # people have the door open after 170 to 260
OPEN = 1.35  # rad, gymnasium-robotics' success rule

ARM = ("ARTz", "ARRx", "ARRy", "ARRz")
HAND = tuple(
    f"{finger}J{joint}"
    for finger, joints in (("WR", 2), ("FF", 4), ("MF", 4), ("RF", 4), ("LF", 5), ("TH", 5))
    for joint in reversed(range(joints))
)
JOINTS = (*ARM, *HAND)  # in the order of the model, which is also that of the actions
ACTION_NAMES = tuple(f"A_{joint}" for joint in JOINTS)  # the model's names of its actuators
_XYZ = ("x", "y", "z")
# gymnasium-robotics observes neither the arm's slide (ARTz) nor any velocity.
STATE_NAMES = (*JOINTS[1:], *(f"palm_{axis}" for axis in _XYZ))
ENVIRONMENT_NAMES = (
    "latch",
    "door_hinge",
    *(f"handle_{axis}" for axis in _XYZ),
    *(f"palm_minus_handle_{axis}" for axis in _XYZ),
    "door_open",  # 1 from 1.0 rad on, before that -1
)
# The 39 entries of gymnasium-robotics' observation in its order (AdroitHandDoorEnv._get_obs).
OBSERVATION_NAMES = (
    *JOINTS[1:],
    *("latch", "door_hinge"),
    *(f"palm_{axis}" for axis in _XYZ),
    *(f"handle_{axis}" for axis in _XYZ),
    *(f"palm_minus_handle_{axis}" for axis in _XYZ),
    "door_open",
)

TASKS = {
    "door": TaskSpec(
        name="door",
        description="Turn the latch and pull the door open.",
        fps=FPS,
        max_ticks=MAX_TICKS,
        usual_ticks=USUAL_TICKS,
        state_size=len(STATE_NAMES),
        environment_size=len(ENVIRONMENT_NAMES),
        low=(-1.0,) * len(JOINTS),
        high=(1.0,) * len(JOINTS),
        cameras=("vil_camera", "fixed"),
    )
}
_DOOR = "frame"  # the body of the door with its frame
DISTURBANCES = DisturbanceSpec(
    regions={_DOOR: (-0.3, -0.2, 0.25, 0.35)},  # where gymnasium-robotics places it
    workspace=(-0.4, -0.1, 0.15, 0.45),
    targets=(),
    shift=0.05,
    turn=0.0,  # the frame stands square to the arm in every demonstration
    start_margin=0.03,
    noise=(*[0.02] * 2, *[0.01] * 6, 0.0),  # two angles (rad), two positions (m); the flag stays
    absolute_actions=True,
    grippers=(),
    open_gripper=0.0,
    refused={"gripper": "a hand has no command to open", "target": "the task has no target"},
)


def _door_class() -> Any:
    """gymnasium-robotics' environment, which has no type information."""
    try:
        # On import gymnasium-robotics prints a note on its rewards, which are not used here.
        with opengl_explained(), redirect_stderr(StringIO()):
            from gymnasium_robotics.envs.adroit_hand import adroit_door
    except ImportError as error:
        raise missing_extra("gymnasium_robotics", "Adroit Door") from error
    return adroit_door.AdroitHandDoorEnv


class DoorSimulator:
    """The door in gymnasium-robotics. `env` is its own environment, for conversion and tests."""

    def __init__(self) -> None:
        self.env = _door_class()()
        # MuJoCo would write its warnings to a file in the working folder. `tick` raises Diverged for those that matter.
        sys.modules["mujoco"].set_mju_user_warning(lambda message: None)
        self._model, self._data = self.env.model, self.env.data
        self._renderers: dict[tuple[int, int], Any] = {}
        self.objects = MujocoObjects(self._model, self._data, (_DOOR,))

    def reset(self, seed: int) -> None:
        self.objects.undo()
        self.env.reset(seed=seed)
        self.objects.home()

    def enter(
        self, door: NDArray[np.float64], positions: NDArray[np.float64], speeds: NDArray[np.float64]
    ) -> None:
        """Go on from a recorded state: the door's place (3,), joint positions (30,) and velocities (30,)."""
        self.objects.undo()
        self.env.reset(seed=0)
        self.env.set_env_state({"door_body_pos": door, "qpos": positions, "qvel": speeds})
        self.objects.home()

    def tick(self, action: NDArray[np.float64]) -> None:
        self.env.step(action)
        mujoco: Any = sys.modules["mujoco"]
        bad = (
            mujoco.mjtWarning.mjWARN_BADQPOS,
            mujoco.mjtWarning.mjWARN_BADQVEL,
            mujoco.mjtWarning.mjWARN_BADQACC,
        )
        if any(self._data.warning[kind].number for kind in bad):  # MuJoCo has then reset the scene by itself
            raise Diverged("MuJoCo reports an unstable state")

    def state(self) -> NDArray[np.float64]:
        return np.array([*(self._angle(joint) for joint in JOINTS[1:]), *self._place("S_grasp")])

    def environment_state(self) -> NDArray[np.float64]:
        palm, handle, hinge = self._place("S_grasp"), self._place("S_handle"), self._angle("door_hinge")
        door_open = 1.0 if hinge > 1.0 else -1.0
        return np.array([self._angle("latch"), hinge, *handle, *(palm - handle), door_open])

    def score(self) -> Score:
        hinge = self._angle("door_hinge")
        return Score(float(np.clip(hinge / OPEN, 0, 1)), hinge >= OPEN)

    def picture(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        if (height, width) not in self._renderers:
            import mujoco

            self._renderers[height, width] = mujoco.Renderer(self._model, height, width)
        renderer = self._renderers[height, width]
        renderer.update_scene(self._data, camera=camera)
        return renderer.render()

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self.env.close()

    def _angle(self, joint: str) -> float:
        """A joint's position, in rad (the arm's slide in m)."""
        return float(self._data.joint(joint).qpos[0])

    def _place(self, site: str) -> NDArray[np.float64]:
        """A site's position (3,)."""
        return self._data.site(site).xpos.copy()


def make(task: str, **options: Unpack[EnvOptions]) -> gym.Env:
    """A new env; see `make_env`."""
    return make_env(TASKS[task], DoorSimulator, "gymnasium_robotics", options)


@cache
def _start_pose() -> NDArray[np.float32]:
    """The action (28,) that holds all joints at zero, where episodes start."""
    assets = Path(sys.modules[_door_class().__module__].__file__ or "").parent.parent / "assets"
    mujoco: Any = sys.modules["mujoco"]
    limits = mujoco.MjModel.from_xml_path(str(assets / "adroit_hand" / "adroit_door.xml")).actuator_ctrlrange
    middle, half = limits.mean(1), (limits[:, 1] - limits[:, 0]) / 2
    return np.clip(-middle / half, -1, 1).astype(np.float32)


def _hold(state: NDArray, last_action: NDArray | None) -> NDArray:
    """The last joint targets again: the state does not hold the arm's slide, so it cannot say where that is."""
    return _start_pose() if last_action is None else last_action


SPECS = {
    f"adroit_{name}": simulated_spec(f"adroit_{name}", task, partial(make, name), DISTURBANCES, _hold)
    for name, task in TASKS.items()
}
