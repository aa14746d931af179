"""Moving the objects of a MuJoCo scene and changing their mass or friction. Metres, radians, world frame."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbance_spec import Vector

TOUCH = 0.001  # metres that a placed object may overlap others
STEP = 0.005  # metres by which a placed object is lowered at a time
DROP = 0.2  # metres that it is lowered at most
# At strength 1 objects have three times their mass, and contacts half of their friction.
HEAVIER, SLIPPERIER = 2.0, 1.0
_CHANGED = (
    "body_mass",
    "body_inertia",
    "body_subtreemass",
    "body_invweight0",
    "dof_invweight0",
    "dof_M0",
    "geom_friction",
    "pair_friction",
    "body_pos",
    "body_quat",
)


class MujocoObjects:
    """The bodies `names`, children of the world body with a free joint or fixed. A `Disturbable`.

    Call `home` after each reset: a settled object gets the height and tilt that it had then.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        names: Sequence[str],
        targets: Sequence[str] = (),
        moved: Callable[[], None] | None = None,
    ) -> None:
        """model, data: MuJoCo's MjModel and MjData. targets: bodies that can be moved, but whose mass is not changed.

        moved: called after a displacement.
        """
        self._model, self._data, self._names, self._moved = model, data, names, moved
        self._bodies = {name: model.body(name).id for name in (*names, *targets)}
        self._before = {field: getattr(model, field).copy() for field in _CHANGED}

    def home(self) -> None:
        """Remember the current poses as the poses at rest."""
        self._home = {name: self._pose(body) for name, body in self._bodies.items()}

    def undo(self) -> None:
        """Restore the model's original masses, friction and poses."""
        for field, value in self._before.items():
            getattr(self._model, field)[:] = value

    def position(self, name: str) -> Vector:
        return np.array(self._data.xpos[self._bodies[name], :2])

    def displace(self, name: str, to: Vector, turn: float, settle: bool) -> bool:
        mujoco = _mujoco()
        body = self._bodies[name]
        before, trial = self._pose(body), self._trial
        trial.qpos[:] = self._data.qpos
        allowed = max(self._depth(body), TOUCH)
        position, orientation = before[:3].copy(), before[3:]
        position[:2] = to
        if settle:
            home = self._home[name]
            position[2], orientation = home[2], home[3:]
            turn += _turned(before[3:], orientation)
        pose = np.concatenate([position, _product(_about_vertical(turn), orientation)])
        self._put(trial, body, pose)
        if self._depth(body) > allowed:
            self._put(trial, body, before)
            return False
        if settle and self._is_free(body):
            self._let_down(body, pose)
        self._put(self._data, body, pose)
        if settle and self._is_free(body):
            start = self._model.jnt_dofadr[self._model.body_jntadr[body]]
            self._data.qvel[start : start + 6] = 0
        mujoco.mj_forward(self._model, self._data)
        if self._moved is not None:
            self._moved()
        return True

    def alter(self, quantity: str, strength: float) -> None:
        mujoco = _mujoco()
        model = self._model
        if quantity == "friction":
            # MuJoCo uses the larger friction of two touching geoms, so all are scaled.
            model.geom_friction[:] /= 1 + SLIPPERIER * strength
            model.pair_friction[:] /= 1 + SLIPPERIER * strength
        else:
            factor = 1 + HEAVIER * strength
            for name in self._names:
                own = model.body_rootid == self._bodies[name]
                model.body_subtreemass[0] += (factor - 1) * model.body_subtreemass[self._bodies[name]]
                for masses in (model.body_mass, model.body_inertia, model.body_subtreemass):
                    masses[own] *= factor
                # Values that MuJoCo computes from the masses when it loads a model.
                model.body_invweight0[own] /= factor
                model.dof_invweight0[own[model.dof_bodyid]] /= factor
                model.dof_M0[own[model.dof_bodyid]] *= factor
        mujoco.mj_forward(model, self._data)

    @cached_property
    def _trial(self) -> Any:
        """A second simulation state, in which new poses are tested for collisions."""
        mujoco = _mujoco()
        return mujoco.MjData(self._model)

    def _is_free(self, body: int) -> bool:
        return bool(self._model.body_jntnum[body])

    def _pose(self, body: int) -> Vector:
        """(7,): position and quaternion (w, x, y, z)."""
        return np.concatenate([self._data.xpos[body], self._data.xquat[body]])

    def _put(self, data: Any, body: int, pose: Vector) -> None:
        if self._is_free(body):
            start = self._model.jnt_qposadr[self._model.body_jntadr[body]]
            data.qpos[start : start + 7] = pose
        else:
            self._model.body_pos[body], self._model.body_quat[body] = pose[:3], pose[3:]

    def _depth(self, body: int) -> float:
        """Depth in metres by which the body overlaps others in the trial state."""
        mujoco = _mujoco()
        mujoco.mj_kinematics(self._model, self._trial)
        mujoco.mj_collision(self._model, self._trial)
        contacts = self._trial.contact
        own = self._model.body_rootid[self._model.geom_bodyid[contacts.geom]] == body  # (contacts, 2)
        between = own[:, 0] != own[:, 1]
        return float(max(0.0, -contacts.dist[between].min(initial=0.0)))

    def _let_down(self, body: int, pose: NDArray) -> None:
        """Lower `pose` (7,) in place until it touches something: an object that falls far may tumble."""
        for _ in range(round(DROP / STEP)):
            pose[2] -= STEP
            self._put(self._trial, body, pose)
            if self._depth(body) > TOUCH:
                pose[2] += STEP
                return


def _mujoco() -> Any:
    """MuJoCo, imported at its first use. Its functions are compiled and have no type information."""
    return importlib.import_module("mujoco")


def _about_vertical(angle: float) -> Vector:
    """Quaternion (4,) of a rotation about the vertical."""
    return np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])


def _turned(now: Vector, before: Vector) -> float:
    """Angle about the vertical from the orientation `before` (4,) to `now` (4,)."""
    change = _product(now, before * np.array([1, -1, -1, -1]))
    return float(2 * np.arctan2(change[3], change[0]))


def _product(left: Vector, right: Vector) -> Vector:
    """Quaternion product (4,): the rotation `right`, then `left`."""
    result = np.zeros(4)
    _mujoco().mju_mulQuat(result, left, right)
    return result
