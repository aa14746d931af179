"""What straight pushes do to PushT's T, simulated once, and ways around it. Pixels, radians, in the T's frame unless said otherwise.

Because the T stops when it is not pushed, what a push does depends on its line relative to the T alone, not on where the T lies (away
from the walls). So some hundred pushes are simulated once, and a plan of several pushes is a composition of their motions.

Legend: P pushes, L lengths, N points where pushes start, M points of the ring on which the pusher goes around the T.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ebt_policy.envs.experts.pusht_physics import OUTLINE, PUSHER, Physics, Vector, distance, rotated

GAP, SPACING = 3.0, 7.0  # between pusher and T where a push starts; between starts
RING, RING_SPACING, MARGIN = 11.0, 12.0, 6.0  # the same on the way around, and the least gap there
ANGLES = np.deg2rad([-50, -35, -20, -10, 0, 10, 20, 35, 50])  # of a push, from the inward normal
LENGTHS = np.array([4, 6, 8, 10, 12, 14, 17, 20, 24, 28, 33, 39, 46, 54, 64, 76, 90, 106, 125, 150])
REACH = (3.0, 509.0)  # of the pusher, in the plane of 512 x 512
NEAR = 15.0  # that far the pusher goes straight


@dataclass(frozen=True)
class Pushes:
    """start, direction (P, 2). place (P,): number of the start's point. motion (P, L, 3): of the T. ends (P, L): number of the point
    nearest to the pusher after the push.
    """

    start: Vector
    direction: Vector
    place: Any
    motion: Vector
    ends: Any

    @property
    def size(self) -> Vector:
        """Of the motions (P, L), see `distance`."""
        return distance(self.motion, np.zeros(3))


@cache
def pushes() -> Pushes:
    """The pushes, simulated at the first call (two seconds)."""
    physics, centre = Physics(), np.array([250.0, 250.0, 0.0])
    points, normals = starts()
    start, direction, place, motion, ends = [], [], [], [], []
    for number, (point, normal) in enumerate(zip(points, normals, strict=True)):
        for angle in ANGLES:
            along = rotated(angle, normal)
            physics.set(centre[:2] + point, centre)
            poses, last = [], []
            for length in range(1, int(LENGTHS[-1]) + 1):
                physics.slide(along)
                if length in LENGTHS:
                    pose = physics.pose() - centre
                    end = rotated(-pose[2], point + length * along - pose[:2])
                    poses.append(pose)
                    last.append(int(((points - end) ** 2).sum(-1).argmin()))
            start.append(point)
            direction.append(along)
            place.append(number)
            motion.append(poses)
            ends.append(last)
    arrays = (np.array(values) for values in (start, direction, place, motion, ends))
    return Pushes(*arrays)


@cache
def starts() -> tuple[Vector, Vector]:
    """Points (N, 2) where pushes start, and the inward normals there (N, 2)."""
    return _around_the_t(GAP, SPACING)


@cache
def ring() -> tuple[Vector, Vector, Any]:
    """Points (M, 2) around the T, distances (M, M) between those in sight of each other (else inf), and the shape not to enter."""
    from shapely import prepare
    from shapely.geometry import LineString, Polygon

    points, _ = _around_the_t(RING, RING_SPACING)
    avoid = Polygon(OUTLINE).buffer(PUSHER + MARGIN)
    prepare(avoid)
    edges = np.full((len(points), len(points)), np.inf)
    for i, a in enumerate(points):
        for j, b in enumerate(points[:i]):
            if not avoid.intersects(LineString([a, b])):
                edges[i, j] = edges[j, i] = np.linalg.norm(a - b)
    return points, edges, avoid


def ways(pose: Vector) -> Vector:
    """Pixels (N, N) between starts, around the T at `pose` (3,) and within the pusher's reach."""
    from scipy.sparse.csgraph import shortest_path

    points, _ = starts()
    nearest, off = _to_ring()
    between = shortest_path(_graph(pose), directed=False)
    near = np.linalg.norm(points[:, None] - points, axis=-1)
    return np.where(near < NEAR, near, between[np.ix_(nearest, nearest)] + off[:, None] + off)


@dataclass(frozen=True)
class Routes:
    """From the pusher around the T. length (N,): pixels to each start, inf: unreachable."""

    pose: Vector
    agent: Vector
    length: Vector
    _before: Any

    def to(self, point: Vector) -> Vector:
        """Corners (C, 2) of the shortest way to a point (2,); all in the plane, not in the T's frame."""
        agent = self.pose[:2] + rotated(self.pose[2], self.agent)
        corners = [point]
        if np.linalg.norm(point - agent) >= NEAR:
            world = self.pose[:2] + rotated(self.pose[2], ring()[0])
            last = int(((world - point) ** 2).sum(-1).argmin())
            while last >= 0:
                corners.append(world[last])
                last = int(self._before[last])
        return np.array([*corners, agent])[::-1]


def routes(pose: Vector, agent: Vector) -> Routes:
    """pose (3,): of the T. agent (2,): the pusher, in the plane."""
    from scipy.sparse.csgraph import dijkstra
    from shapely.geometry import LineString, Point

    points, _, avoid = ring()
    local = rotated(-pose[2], agent - pose[:2])
    straight = np.linalg.norm(points - local, axis=1)
    allowed = _allowed(pose)
    if avoid.contains(Point(local)):  # leave the T first
        seen = straight == straight[allowed].min(initial=np.inf)
    else:
        seen = np.array([not avoid.intersects(LineString([local, point])) for point in points])
    graph = np.pad(_graph(pose), (0, 1))
    graph[-1, :-1] = np.where(seen & allowed, straight, 0)
    length, before = dijkstra(graph, indices=len(points), return_predecessors=True)
    nearest, off = _to_ring()
    near = np.linalg.norm(starts()[0] - local, axis=1)
    return Routes(
        pose,
        local,
        np.where(near < NEAR, near, length[nearest] + off),
        np.where(before == len(points), -1, before),
    )


def _graph(pose: Vector) -> Vector:
    """Distances (M, M) between points of the ring that see each other, within the pusher's reach; 0: no edge."""
    _, edges, _ = ring()
    allowed = _allowed(pose)
    return np.where(np.isfinite(edges) & allowed & allowed[:, None], edges, 0.0)


def _allowed(pose: Vector) -> Any:
    """Whether the pusher can be at the points of the ring (M,)."""
    world = pose[:2] + rotated(pose[2], ring()[0])
    return ((world > REACH[0]) & (world < REACH[1])).all(-1)


@cache
def _to_ring() -> tuple[Any, Vector]:
    """Of each start: number of the nearest point of the ring (N,), and the distance (N,)."""
    between = np.linalg.norm(starts()[0][:, None] - ring()[0], axis=-1)
    return between.argmin(1), between.min(1)


def _around_the_t(gap: float, spacing: float) -> tuple[Vector, Vector]:
    """Points (N, 2) of the pusher at `gap` from the T, and the inward normals there (N, 2)."""
    from shapely.geometry import Polygon

    shape = Polygon(OUTLINE)
    around = shape.buffer(PUSHER + gap).exterior
    count = int(around.length / spacing)
    points = [around.interpolate(i / count, normalized=True) for i in range(count)]
    nearest = [shape.exterior.interpolate(shape.exterior.project(point)) for point in points]
    inward = np.array([[b.x - a.x, b.y - a.y] for a, b in zip(points, nearest, strict=True)])
    return np.array([[p.x, p.y] for p in points]), inward / np.linalg.norm(inward, axis=1, keepdims=True)
