"""Forward and inverse kinematics of one of ALOHA's ViperX arms. World frame, metres, radians."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Vector = NDArray[np.float64]
# Between the finger pads, in the gripper's frame: x forward, the fingers close along y.
TOOL = np.array([0.135, 0.0, 0.0])
# Initial joints of the inverse kinematics; waist and wrist angle are set from the goal.
ELBOW_UP = np.array([0.0, -0.3, 0.8, 0.0, 0.0, 0.0])
# Costs of a squared metre and a squared radian of error, and of forearm roll. When the wrist is straight, forearm roll and
# wrist rotation have the same axis and a small yaw needs large rolls: the cost of roll makes the yaw inexact instead.
COST = np.repeat([400.0, 1.0], 3)
ROLL_COST = np.diag([0, 0, 0, 0.02, 0, 0])
DAMPING, STEP, STEPS = 1e-3, 0.4, 40  # of Gauss-Newton; radians a step


class Pose(NamedTuple):
    """position (3,) and rotation, of a tool point or an object."""

    position: Vector
    rotation: Rotation

    def moved(self, offset: Vector) -> Pose:
        """The pose translated by `offset` (3,) in the world frame."""
        return Pose(self.position + offset, self.rotation)

    def towards(self, goal: Pose) -> Vector:
        """Translation and rotation vector (6,) from this pose to `goal`."""
        turn = (goal.rotation * self.rotation.inv()).as_rotvec()
        return np.concatenate([goal.position - self.position, turn])


class Arm:
    """One arm: kinematics and current state."""

    def __init__(self, physics: Any, side: str) -> None:
        """physics: dm_control's. side: left or right."""
        self._mujoco: Any = importlib.import_module(
            "mujoco"
        )  # compiled, without types; not needed to list experts
        self._data, self._model = physics.data, physics.model.ptr
        self._scratch = self._mujoco.MjData(self._model)
        self._body = self._model.body(f"vx300s_{side}/gripper_link").id
        self._base = self._model.body(f"vx300s_{side}")
        first = self._model.joint(f"vx300s_{side}/waist").id
        self._joints = slice(
            first, first + 6
        )  # in qpos, qvel and the model alike: no free joint comes before
        self._low, self._high = self._model.jnt_range[self._joints].T

    @property
    def joints(self) -> Vector:
        """(6,): the measured angles."""
        return np.array(self._data.qpos[self._joints])

    @property
    def pose(self) -> Pose:
        """Current pose of the tool."""
        return self._tool(self._data)

    def jacobian(self, joints: Vector) -> NDArray[np.float64]:
        """Jacobian (6, 6): translation and rotation of the tool per joint angle."""
        self._place(joints)
        self._mujoco.mj_comPos(self._model, self._scratch)
        full = np.empty((6, self._model.nv))
        tool = self._tool(self._scratch).position
        self._mujoco.mj_jac(self._model, self._scratch, full[:3], full[3:], tool, self._body)
        return full[:, self._joints]

    def reach(self, goal: Pose) -> Vector:
        """Inverse kinematics: joints (6,) that bring the tool to `goal`, or close to it.

        The result depends only on the goal, so that similar goals give similar joints.
        """
        joints = ELBOW_UP.copy()
        joints[0] = self._heading(goal.position)
        joints[4] = np.arcsin(np.clip(-goal.rotation.as_matrix()[2, 0], -1, 1)) - joints[1] - joints[2]
        for _ in range(STEPS):
            jacobian = self.jacobian(joints)
            pull = jacobian.T * COST
            way = self._tool(self._scratch).towards(goal)
            step = np.linalg.solve(
                pull @ jacobian + ROLL_COST + DAMPING * np.eye(6), pull @ way - ROLL_COST @ joints
            )
            joints += step * min(1.0, STEP / np.abs(step).max())
            joints = np.clip(joints, self._low, self._high)
            if np.abs(step).max() < 1e-3:
                break
        return joints

    def tool(self, joints: Vector) -> Pose:
        """Forward kinematics: tool pose of joints (6,)."""
        self._place(joints)
        return self._tool(self._scratch)

    def _heading(self, position: Vector) -> float:
        """Angle of the waist towards a position (3,)."""
        (w, _, _, z), (x, y) = self._base.quat, (position - self._base.pos)[:2]
        angle = np.arctan2(y, x) - 2 * np.arctan2(z, w)
        return float((angle + np.pi) % (2 * np.pi) - np.pi)

    def _place(self, joints: Vector) -> None:
        self._scratch.qpos[self._joints] = joints
        self._mujoco.mj_kinematics(self._model, self._scratch)

    def _tool(self, data: Any) -> Pose:
        matrix = np.array(data.xmat[self._body]).reshape(3, 3)
        return Pose(data.xpos[self._body] + matrix @ TOOL, Rotation.from_matrix(matrix))
