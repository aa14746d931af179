"""Hindsight for planar tasks: a demonstration that missed its goal by a little, moved so that it would have met it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt_policy.errors import UserError


@dataclass(frozen=True)
class GoalAlignment:
    """Each demonstration is turned and shifted as a whole so that its object ends on the goal.

    Pushing on a table obeys the same physics wherever the table is looked at from; only walls and the goal tell places
    apart. So a demonstration moved by the few millimetres by which it missed the goal is as good as a new recording
    that does not miss it (the idea of hindsight goals, arXiv 1707.01495, with a motion in place of a new goal). Every
    feature must be made of points (x, y) in one unit; how far each demonstration moved is for the caller to judge
    (`motion`).

    object: the feature that holds K points of the object.
    goal: where those points lie when the task is done, (K, 2).
    coast: frames for which the object goes on at its last speed after the last recorded one; recordings tend to end
        when the task counts as solved, with the object still moving.
    features: all features that are made of points; the others must not depend on where things are.
    """

    object: str
    goal: tuple[tuple[float, float], ...]
    features: tuple[str, ...]
    coast: float = 0.0

    def __call__(self, columns: Mapping[str, Tensor], episode_index: Tensor) -> dict[str, Tensor]:
        """feature -> (F, D), episode_index (F,) in runs -> the same with every episode moved."""
        _, run, lengths = episode_index.unique_consecutive(return_inverse=True, return_counts=True)
        turn, centre, shift = self.motion(columns[self.object], lengths)

        def move(values: Tensor) -> Tensor:
            points = values.double().unflatten(-1, (-1, 2))  # (F, P, 2)
            moved = (points - centre[run][:, None]) @ turn[run].mT + (centre + shift)[run][:, None]
            return moved.flatten(-2).to(values)

        return {key: move(values) if key in self.features else values for key, values in columns.items()}

    def motion(self, points: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Object points (F, 2 K) of episodes of `lengths` (N,) frames -> rotation (N, 2, 2), its centre (N, 2), and
        the shift (N, 2) after it: the least-squares motion (Kabsch) from where the object ends to the goal.
        """
        points = points.double().unflatten(-1, (-1, 2))
        last = lengths.cumsum(0) - 1
        before = torch.where(lengths > 1, last - 1, last)
        end = points[last] + self.coast * (points[last] - points[before])  # (N, K, 2)
        goal = torch.tensor(self.goal, dtype=torch.float64)
        centre, target = end.mean(1), goal.mean(0)
        h = (end - centre[:, None]).mT @ (goal - target)  # (N, 2, 2)
        angle = torch.atan2(h[:, 0, 1] - h[:, 1, 0], h[:, 0, 0] + h[:, 1, 1])
        rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
        return torch.stack(rows, -1).unflatten(-1, (2, 2)), centre, target - centre

    def check(self, columns: Mapping[str, Tensor], cameras: Sequence[str] = ()) -> None:
        """Raise UserError unless all features can be moved."""
        if cameras:
            raise UserError(
                f"{cameras[0]}: pictures cannot be moved with the points. Train without goal_alignment."
            )
        if self.object not in columns:
            raise UserError(
                f"{self.object}: goal_alignment needs this feature to see where the object ends. It is not among "
                f"{', '.join(columns)}."
            )
        width = columns[self.object].shape[-1]
        if width != 2 * len(self.goal):
            raise UserError(
                f"{self.object}: goal_alignment expects {len(self.goal)} points, that is {2 * len(self.goal)} numbers; "
                f"found {width}."
            )


T_KEYPOINTS = ((-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120))
DIAGONAL = math.sqrt(0.5)

# gym-pusht: the eight keypoints of the T (its two rectangles) on the target, at (256, 256) turned by 45 degrees. The T
# comes to rest about two frames' travel after the last recorded frame (replayed in the simulator: 2.2, median).
PUSHT = GoalAlignment(
    object="observation.environment_state",
    goal=tuple((256 + DIAGONAL * (x - y), 256 + DIAGONAL * (x + y)) for x, y in T_KEYPOINTS),
    features=("observation.state", "observation.environment_state", "action"),
    coast=2.0,
)

GOAL_ALIGNMENTS = {"pusht": PUSHT}


def find_goal_alignment(spec: str | Mapping[str, Any] | None) -> GoalAlignment | None:
    """A registered one by name, or one written out with the fields of GoalAlignment; None for none."""
    if not spec:
        return None
    if isinstance(spec, str):
        if spec not in GOAL_ALIGNMENTS:
            raise UserError(f"Unknown goal_alignment {spec!r}. Available: {', '.join(GOAL_ALIGNMENTS)}.")
        return GOAL_ALIGNMENTS[spec]
    try:
        fields = {**spec, "goal": tuple(map(tuple, spec["goal"])), "features": tuple(spec["features"])}
        return GoalAlignment(**fields)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"A goal_alignment is written {{object, goal: [[x, y], ...], features, coast}}; found {spec!r}. "
            f"Cause: {error}"
        ) from error
