"""Covering a picture: the plan changes where the policy depends on it, and nowhere else."""

from types import SimpleNamespace

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.inference.occlusion import _begins, plan_changes

CAMERA, STATE = "observation.images.top", "observation.state"


class Corner:
    """A policy whose plan is the mean of one region of its picture, and of its previous plan."""

    n_action_steps = 4

    def decide(self, observations, noise, previous):
        assert len(noise.normal((1,)).unique()) == 1  # the same noise for every patch
        value = observations[CAMERA][:, -1, :, 4:10, 20:26].mean((1, 2, 3))
        return SimpleNamespace(chunk=previous + value[:, None, None])


def seen(height: int, width: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    picture = rng.random((1, 3, height, width)).astype(np.float32)
    picture[..., 4:10, 20:26] = 1.0
    return {CAMERA: picture, STATE: np.zeros((1, 2), np.float32)}


@pytest.mark.parametrize(("height", "width"), [(48, 48), (36, 50)])
def test_only_the_region_that_the_plan_depends_on_is_marked(height: int, width: int) -> None:
    changes = plan_changes(Corner(), seen(height, width), np.zeros((8, 2)), CAMERA)
    assert changes.shape == (height, width) and np.isfinite(changes).all()
    y, x = np.unravel_index(changes.argmax(), changes.shape)
    assert 0 <= y < 14 and 14 <= x < 32
    side = min(height, width) // 6
    far = np.ones((height, width), bool)
    far[: 10 + side, 20 - side : 26 + side] = False
    assert (changes[far] == 0).all()


@pytest.mark.parametrize("length", [5, 16, 97])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_patches_cover_the_whole_picture(length: int, side: int) -> None:
    covered = {i for begin in _begins(length, side) for i in range(begin, begin + side)}
    assert covered == set(range(length))


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="no camera 'wrist'. It has: observation.images.top"):
        plan_changes(Corner(), seen(48, 48), np.zeros((8, 2)), "wrist")
