"""LeRobot's image transforms (colours, sharpness, small rotations and shifts, by name) on the pictures of training batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ebt_policy.errors import UserError


class BatchTransforms:
    """LeRobot's `ImageTransforms` as LeRobot's own training applies them: drawn anew for each sample and camera, the same for
    all frames of one sample's window."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """options: fields of LeRobot's ImageTransformsConfig. Raises UserError for an unknown field, transform or argument."""
        import draccus
        from lerobot.transforms import ImageTransforms, ImageTransformsConfig

        try:
            self._transforms = ImageTransforms(draccus.decode(ImageTransformsConfig, dict(options)))
        except (draccus.utils.DecodingError, ValueError, TypeError) as error:
            raise UserError(
                f"Recipe: dataset.image_transforms: {error} Its fields are those of LeRobot's ImageTransformsConfig."
            ) from error

    def __call__(self, batch: dict[str, Any], cameras: list[str]) -> dict[str, Any]:
        """A batch whose `cameras` (B, T, C, H, W) or (B, C, H, W) in 0..1 are changed, still within 0..1."""
        return batch | {name: self._changed(batch[name]) for name in cameras}

    def _changed(self, pictures: Tensor) -> Tensor:
        changed = pictures.clone()
        for i, window in enumerate(pictures):
            changed[i] = self._transforms(window)
        return changed.clamp_(0, 1)


def batch_transforms(options: Mapping[str, Any], cameras: list[str]) -> BatchTransforms | None:
    """What the recipe's dataset.image_transforms asks for; None where it is not enabled.

    cameras: those whose pictures the batches hold. Raises UserError where there are none.
    """
    if not options:
        return None
    # Read even where they are off, so that a typing error shows at once.
    transforms = BatchTransforms(options)
    if not options.get("enable"):
        return None
    if not cameras:
        raise UserError(
            "Recipe: dataset.image_transforms changes the pictures of each batch, and here batches hold none. Without a camera, "
            "leave it out. With policy.vision=frozen maps are computed once: set dataset.feature_variants=0, or use "
            "policy.random_colour and policy.random_shift."
        )
    return transforms
