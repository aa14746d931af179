"""Goal alignment for planar tasks: each demonstration is moved so that its object ends exactly on the goal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt_policy.errors import UserError


@dataclass(frozen=True)
class GoalAlignment:
    """Rotates and shifts each whole demonstration so that its object ends on the goal.

    Pushing works the same everywhere on a table; only the walls and the goal depend on the place. Most demonstrations miss
    the goal by a few millimetres. Moved by that much, they are as good as new recordings that do not miss it. (The idea is
    that of hindsight goals, arXiv 1707.01495; here the demonstration moves and not the goal.) All points (x, y) must have
    the same unit. `motion` says how far each demonstration is moved: check that it is little.

    object: the feature with K points of the object.
    goal: where those points are when the task is done, (K, 2).
    coast: recordings often end while the object still moves. For this many frames after the last one it is assumed to
        move on at its last speed.
    features: all features that consist of points. The others must not depend on positions.
    """

    object: str
    goal: tuple[tuple[float, float], ...]
    features: tuple[str, ...]
    coast: float = 0.0

    def __call__(self, columns: Mapping[str, Tensor], episode_index: Tensor) -> dict[str, Tensor]:
        """columns: feature -> (F, D). episode_index: (F,), the frames of an episode one after the other. Returns the moved columns."""
        _, run, lengths = episode_index.unique_consecutive(return_inverse=True, return_counts=True)
        turn, centre, shift = self.motion(columns[self.object], lengths)

        def move(values: Tensor) -> Tensor:
            points = values.double().unflatten(-1, (-1, 2))  # (F, P, 2)
            moved = (points - centre[run][:, None]) @ turn[run].mT + (centre + shift)[run][:, None]
            return moved.flatten(-2).to(values)

        return {key: move(values) if key in self.features else values for key, values in columns.items()}

    def motion(self, points: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The least-squares motion (Kabsch) of each episode from where its object ends to the goal.

        points: of the object, (F, 2 K). lengths: frames of each episode, (N,). Returns the rotation (N, 2, 2), its centre
        (N, 2), and the shift (N, 2) that follows it.
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
