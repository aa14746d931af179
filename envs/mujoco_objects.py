"""Objects of a MuJoCo scene, moved and made heavier or more slippery. Metres, radians, world frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbances.exposure import Vector

TOUCH = 0.001  # how deep objects may be in each other where one is put
STEP = 0.005  # by which an object is let down
DROP = 0.2  # the farthest that one is let down
# At a strength of 1 objects are three times as heavy, and contacts have half of their friction.
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
    """The bodies `names` right below the world: with a free joint, or fixed to the world. A `Disturbable`.

    `home` has to be called after each reset: upright is how a body was then.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        names: Sequence[str],
        targets: Sequence[str] = (),
        moved: Callable[[], None] | None = None,
    ) -> None:
        """model, data: MuJoCo's own MjModel and MjData. targets: bodies that are moved but never altered.

        moved: to be called after a displacement.
        """
        self._model, self._data, self._names, self._moved = model, data, names, moved
        self._bodies = {name: model.body(name).id for name in (*names, *targets)}
        self._before = {field: getattr(model, field).copy() for field in _CHANGED}

    def home(self) -> None:
        """The present poses are those at rest."""
        self._home = {name: self._pose(body) for name, body in self._bodies.items()}

    def undo(self) -> None:
        """The model is as it was found."""
        for field, value in self._before.items():
            getattr(self._model, field)[:] = value

    def position(self, name: str) -> Vector:
        return np.array(self._data.xpos[self._bodies[name], :2])

    def displace(self, name: str, to: Vector, turn: float, settle: bool) -> bool:
        import mujoco

        body = self._bodies[name]
        before, trial = self._pose(body), self._trial
        trial.qpos[:] = self._data.qpos
        allowed = max(self._depth(body), TOUCH)
        position, attitude = before[:3].copy(), before[3:]
        position[:2] = to
        if settle:
            home = self._home[name]
            position[2], attitude = home[2], home[3:]
            turn += _turned(before[3:], attitude)
        pose = np.concatenate([position, _product(_about_vertical(turn), attitude)])
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
        import mujoco

        model = self._model
        if quantity == "friction":
            # Of the two that touch, the rougher one counts: so that of everything is scaled.
            model.geom_friction[:] /= 1 + SLIPPERIER * strength
            model.pair_friction[:] /= 1 + SLIPPERIER * strength
        else:
            factor = 1 + HEAVIER * strength
            for name in self._names:
                own = model.body_rootid == self._bodies[name]
                model.body_subtreemass[0] += (factor - 1) * model.body_subtreemass[self._bodies[name]]
                for masses in (model.body_mass, model.body_inertia, model.body_subtreemass):
                    masses[own] *= factor
                # What MuJoCo derives from masses when it loads a model.
                model.body_invweight0[own] /= factor
                model.dof_invweight0[own[model.dof_bodyid]] /= factor
                model.dof_M0[own[model.dof_bodyid]] *= factor
        mujoco.mj_forward(model, self._data)

    @cached_property
    def _trial(self) -> Any:
        """A second state of the world, to try poses in."""
        import mujoco

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
        """How deep the body is in others, in the state that is tried."""
        import mujoco

        mujoco.mj_kinematics(self._model, self._trial)
        mujoco.mj_collision(self._model, self._trial)
        contacts = self._trial.contact
        own = self._model.body_rootid[self._model.geom_bodyid[contacts.geom]] == body  # (contacts, 2)
        between = own[:, 0] != own[:, 1]
        return float(max(0.0, -contacts.dist[between].min(initial=0.0)))

    def _let_down(self, body: int, pose: NDArray) -> None:
        """Lower `pose` to what is below: an object that falls far may tumble."""
        for _ in range(round(DROP / STEP)):
            pose[2] -= STEP
            self._put(self._trial, body, pose)
            if self._depth(body) > TOUCH:
                pose[2] += STEP
                return


def _about_vertical(angle: float) -> Vector:
    """(4,): a quaternion."""
    return np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])


def _turned(now: Vector, before: Vector) -> float:
    """By which angle about the vertical the attitude `now` (4,) is ahead of `before` (4,)."""
    change = _product(now, before * np.array([1, -1, -1, -1]))
    return float(2 * np.arctan2(change[3], change[0]))


def _product(left: Vector, right: Vector) -> Vector:
    """(4,): the rotation `right`, then `left`."""
    import mujoco

    result = np.zeros(4)
    mujoco.mju_mulQuat(result, left, right)
    return result
