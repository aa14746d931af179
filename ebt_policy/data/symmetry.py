"""Exact symmetries of a task, such as a mirror image. Each doubles the number of demonstrations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt_policy.errors import UserError

# How a picture (..., H, W) is mirrored.
PIXEL_MAPS = {
    "horizontal": lambda pixels: pixels.flip(-1),
    "vertical": lambda pixels: pixels.flip(-2),
    "antitranspose": lambda pixels: pixels.flip(-1, -2).transpose(-1, -2),
}


@dataclass(frozen=True)
class AffineMap:
    """x' = sign * x[permutation] + offset over the last dimension; sign, offset: one for all or one each."""

    permutation: tuple[int, ...]
    sign: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0

    def __call__(self, values: Tensor) -> Tensor:
        """(..., D) -> (..., D), in the same unit."""
        sign, offset = torch.as_tensor(self.sign).to(values), torch.as_tensor(self.offset).to(values)
        return sign * values[..., list(self.permutation)] + offset


@dataclass(frozen=True)
class Symmetry:
    """A transformation that does not change the task: one affine map for each low-dimensional feature.

    features: a map for each `observation.*` and `action` feature in use. One that does not change needs an identity map;
        it is not assumed, because a forgotten feature would make wrong demonstrations.
    pixels: how the pictures of all cameras change, a key of PIXEL_MAPS; empty where the cameras do not have the symmetry.
    """

    features: dict[str, AffineMap]
    pixels: str = ""

    def check(self, widths: Mapping[str, int], cameras: Mapping[str, tuple[int, int]]) -> None:
        """Raise UserError unless every feature (name -> D) and camera (name -> (H, W)) can be mapped."""
        for name, width in widths.items():
            found = self.features.get(name)
            if found is None:
                raise UserError(
                    f"{name}: the symmetry has no map for it. Add one (an identity if it does not change)."
                )
            if sorted(found.permutation) != list(range(width)):
                raise UserError(
                    f"{name}: the symmetry must permute 0..{width - 1}, found {found.permutation}."
                )
        for name, (height, width) in cameras.items():
            if self.pixels not in PIXEL_MAPS:
                raise UserError(
                    f"{name}: the symmetry does not say what happens to pictures. Set pixels to one of "
                    f"{sorted(PIXEL_MAPS)}, or train without the symmetry."
                )
            if self.pixels == "antitranspose" and height != width:
                raise UserError(f"{name}: 'antitranspose' needs square pictures, found {height}x{width}.")

    def map_pixels(self, pixels: Tensor) -> Tensor:
        """(..., H, W) -> (..., H, W)."""
        return PIXEL_MAPS[self.pixels](pixels)


def _pusht() -> Symmetry:
    """PushT's mirror on the line x + y = 512: (x, y) -> (512 - y, 512 - x), in units of its 512 x 512 board.

    The goal pose is its own mirror image. So is the T, if its keypoints are swapped in pairs. Numbers are exact; pictures
    differ a little at edges.
    """
    point = AffineMap((1, 0), -1.0, 512.0)
    keypoints = tuple(2 * partner + axis for partner in (1, 0, 3, 2, 5, 4, 7, 6) for axis in (1, 0))
    return Symmetry(
        {
            "observation.state": point,
            "observation.environment_state": AffineMap(keypoints, -1.0, 512.0),
            "action": point,
        },
        pixels="antitranspose",
    )


SYMMETRIES: dict[str, Symmetry] = {"pusht": _pusht()}


def find_symmetry(spec: str | Mapping[str, Any] | None) -> Symmetry | None:
    """A registered symmetry by name, or one written out as in a recipe; None for none.

    Written out: {"features": {name: {"permutation": [1, 0], "sign": -1, "offset": 512}}, "pixels": ""}.
    Raises UserError for an unknown name and for fields that do not exist.
    """
    if not spec:
        return None
    if isinstance(spec, str):
        if spec not in SYMMETRIES:
            raise UserError(f"Unknown symmetry {spec!r}. Available: {', '.join(sorted(SYMMETRIES))}.")
        return SYMMETRIES[spec]
    try:
        maps = {name: AffineMap(**fields) for name, fields in spec["features"].items()}
        return Symmetry(maps, **{key: value for key, value in spec.items() if key != "features"})
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            "A symmetry is written {features: {name: {permutation, sign, offset}}, pixels}; "
            f"found {spec!r}. Cause: {error}"
        ) from error
