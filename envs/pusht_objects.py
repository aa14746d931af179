"""Moving PushT's block and goal. Pixels of its 512 x 512 plane, radians."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebt_policy.envs.disturbance_spec import Vector

TOUCH = 0.5  # pixels that a placed block may overlap other shapes
WALLS = (5.0, 506.0)


class PushTObjects:
    """The block `T` and the `goal` of a gym-pusht env. A `Disturbable`; a reset of the env undoes all changes."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def position(self, name: str) -> Vector:
        return np.array(self._env.goal_pose[:2] if name == "goal" else self._env.block.position)

    def displace(self, name: str, to: Vector, turn: float, settle: bool) -> bool:
        """See Disturbable. `settle` has no effect: nothing moves by itself in PushT."""
        if name == "goal":
            return self._move_goal(np.array([*to, self._env.goal_pose[2] + turn]))
        block = self._env.block
        position, angle = block.position, block.angle
        allowed = max(self._depth(), TOUCH)
        self._put(tuple(map(float, to)), angle + turn)
        if self._depth() > allowed:
            self._put(position, angle)
            return False
        return True

    def alter(self, quantity: str, strength: float) -> None:
        """Set the friction coefficient between pusher and block, 0 in gym-pusht, to `strength`."""
        for shape in self._env.block.shapes:
            shape.friction = strength
        for shape in self._env.agent.shapes:
            shape.friction = 1.0  # pymunk multiplies the friction of both shapes

    def _move_goal(self, pose: Vector) -> bool:
        body = self._env.get_goal_pose_body(pose)
        corners = [body.local_to_world(v) for shape in self._env.block.shapes for v in shape.get_vertices()]
        if not all(WALLS[0] < value < WALLS[1] for corner in corners for value in corner):
            return False
        self._env.goal_pose = pose
        return True

    def _put(self, position: Any, angle: float) -> None:
        block = self._env.block
        block.angle = angle  # rotates about the centre of gravity and so moves the position, which is therefore set after it
        block.position = position
        self._env.space.reindex_shapes_for_body(block)

    def _depth(self) -> float:
        """Depth in pixels by which the block overlaps the pusher or a wall."""
        block, space = self._env.block, self._env.space
        return max(
            (
                abs(
                    point.distance
                )  # contact points exist only for overlapping shapes; the sign depends on their order
                for shape in block.shapes
                for hit in space.shape_query(shape)
                if hit.shape is not None and hit.shape.body is not block
                for point in hit.contact_point_set.points
            ),
            default=0.0,
        )
