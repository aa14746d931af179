"""ALOHA's two simulated tasks (gym-aloha): two ViperX arms, joint targets at 50 Hz, 400 ticks an episode.

gym-aloha renders three 640 x 480 pictures on each tick, needed or not. Only its physics, rewards and start distribution
are used here.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbance_spec import DisturbanceSpec
from ebt_policy.envs.mujoco_objects import MujocoObjects
from ebt_policy.envs.rendering import opengl_explained
from ebt_policy.envs.simulated import Diverged, EnvOptions, Score, TaskSpec, make_env, simulated_spec
from ebt_policy.errors import UserError

FPS, MAX_TICKS = 50, 400
MAX_REWARD = 4  # gym-aloha's reward counts task stages; the last is success
JOINTS = 14  # per arm: six joints in radians, and the gripper from 0 (closed) to 1 (open)
_JOINT_LIMIT = (*[np.pi] * 6, 1.0) * 2
_LOW = tuple(-x if x > 1 else 0.0 for x in _JOINT_LIMIT)


def _task(name: str, description: str, environment_size: int, usual_ticks: int) -> TaskSpec:
    return TaskSpec(
        name=name,
        description=description,
        fps=FPS,
        max_ticks=MAX_TICKS,
        usual_ticks=usual_ticks,
        state_size=JOINTS,
        environment_size=environment_size,
        low=_LOW,
        high=_JOINT_LIMIT,
        cameras=("top", "angle", "front_close"),
    )


# Environment state: each object's position (m) and quaternion (w, x, y, z).
TASKS = {
    "transfer_cube": _task(
        "transfer_cube",
        "Pick up the cube with the right arm and hand it to the left arm.",
        7,
        usual_ticks=264,
    ),
    "insertion": _task(
        "insertion",
        "Pick up the peg with the right arm and the socket with the left arm, and insert the peg.",
        14,  # peg, then socket
        usual_ticks=239,
    ),
}
_REGIONS = {  # where gym-aloha places its bodies: x min, x max, y min, y max
    "transfer_cube": {"box": (0.0, 0.2, 0.4, 0.6)},
    "insertion": {"peg": (0.1, 0.2, 0.4, 0.6), "socket": (-0.2, -0.1, 0.4, 0.6)},
}
DISTURBANCES = {
    name: DisturbanceSpec(
        regions=regions,
        workspace=(-0.3, 0.3, 0.3, 0.7),
        targets=(),
        shift=0.06,
        turn=0.5,
        start_margin=0.04,
        noise=(*[0.01] * 3, *[0.02] * 4) * len(regions),
        absolute_actions=True,
        grippers=(6, 13),
        open_gripper=1.0,
        refused={"target": "the task has no target"},
    )
    for name, regions in _REGIONS.items()
}


class AlohaSimulator:
    """One task in MuJoCo, set up by gym-aloha through dm_control."""

    def __init__(self, task: str) -> None:
        try:
            with opengl_explained():
                from dm_control import mujoco
                from dm_control.rl import control
                from gym_aloha.constants import ASSETS_DIR, DT
                from gym_aloha.tasks import sim
        except ImportError as error:
            raise UserError(
                f"ALOHA needs gym-aloha ({error}). Install the extra: pip install 'lerobot_policy_ebt[aloha]'"
            ) from error
        base = {"transfer_cube": sim.TransferCubeTask, "insertion": sim.InsertionTask}[task]

        class WithoutRendering(base):  # type: ignore[misc, valid-type]
            """gym-aloha's task, without rendering on each tick."""

            def get_observation(self, physics: Any) -> dict:
                return {}

        self._name, self._sim = task, sim
        self.physics: Any = mujoco.Physics.from_xml_path(str(ASSETS_DIR / f"bimanual_viperx_{task}.xml"))
        self.task = WithoutRendering(random=np.random.RandomState(0))
        self._physics_error = control.PhysicsError
        self._environment = control.Environment(self.physics, self.task, control_timestep=DT)
        self.objects = MujocoObjects(self.physics.model.ptr, self.physics.data.ptr, tuple(_REGIONS[task]))

    def reset(self, seed: int) -> None:
        from gym_aloha.utils import sample_box_pose, sample_insertion_pose

        self.objects.undo()
        if self._name == "transfer_cube":
            pose = sample_box_pose(seed)
        else:
            pose = np.concatenate(sample_insertion_pose(seed))
        self._sim.BOX_POSE[0] = pose  # a global of gym-aloha, read by the reset below
        self._environment.reset()
        self._reward = self.task.get_reward(self.physics)
        self.objects.home()

    def tick(self, action: NDArray[np.float64]) -> None:
        try:
            self._reward = self._environment.step(action).reward
        except self._physics_error as error:
            raise Diverged(str(error)) from error

    def state(self) -> NDArray[np.float64]:
        return self.task.get_qpos(self.physics)

    def environment_state(self) -> NDArray[np.float64]:
        return self.task.get_env_state(self.physics)

    def show(self, state: NDArray[np.float64], environment_state: NDArray[np.float64]) -> None:
        """Puts arms and objects where these observations, (14,) and (E,), say, at rest. No time passes."""
        from gym_aloha.constants import unnormalize_puppet_gripper_position

        arms = []
        for arm in np.split(state, 2):
            finger = unnormalize_puppet_gripper_position(arm[6])
            arms.append([*arm[:6], finger, -finger])
        with self.physics.reset_context():
            self.physics.data.qpos[:] = np.concatenate([*arms, environment_state])

    def score(self) -> Score:
        return Score(self._reward / MAX_REWARD, self._reward == MAX_REWARD)

    def picture(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        return self.physics.render(height=height, width=width, camera_id=camera)

    def close(self) -> None:
        self.physics.free()


def make(task: str, **options: Unpack[EnvOptions]) -> gym.Env:
    """A new env; see `make_env`."""
    return make_env(TASKS[task], partial(AlohaSimulator, task), "gym_aloha", options)


SPECS = {
    f"aloha_{name}": simulated_spec(
        f"aloha_{name}",
        task,
        partial(make, name),
        DISTURBANCES[name],
        hold=lambda state, _: state,  # actions are joint targets in the order of the state
    )
    for name, task in TASKS.items()
}
