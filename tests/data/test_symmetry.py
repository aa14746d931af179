"""A symmetry is exact on the data and in the simulator, and is refused if it does not cover every feature."""

import math

import pytest
import torch

from ebt_policy.data.symmetry import PIXEL_MAPS, SYMMETRIES, AffineMap, Symmetry, find_symmetry
from ebt_policy.errors import UserError

PUSHT = SYMMETRIES["pusht"]


@pytest.mark.parametrize(
    ("key", "width"), [("observation.state", 2), ("action", 2), ("observation.environment_state", 16)]
)
def test_pusht_mirror_is_its_own_inverse(key, width):
    values = torch.rand(5, 3, width) * 512
    mirror = PUSHT.features[key]
    torch.testing.assert_close(mirror(mirror(values)), values, rtol=0, atol=1e-4)
    assert not torch.allclose(mirror(values), values)


def test_pusht_keypoints_move_with_the_board():
    """As a set, the mirrored keypoints are the mirrored points; only their names change."""
    keypoints = torch.rand(8, 2) * 512
    mirrored = PUSHT.features["observation.environment_state"](keypoints.flatten()).view(8, 2)
    points = PUSHT.features["action"](keypoints)
    assert torch.cdist(mirrored, points).argmin(1).tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


def test_pusht_mirror_holds_in_the_simulator():
    """A mirrored pose has the mirrored keypoints, the same coverage and (but for edges) picture."""
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("gym_pusht")
    env = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos").unwrapped

    def look(agent, block, angle):
        env.reset(seed=0)
        env.agent.position, env.block.angle, env.block.position = agent, angle, block
        for body in (env.agent, env.block):
            env.space.reindex_shapes_for_body(body)
        keypoints = torch.as_tensor(env.get_obs()["environment_state"])
        return torch.as_tensor(env._render().copy()).permute(2, 0, 1).float(), keypoints, env._get_coverage()

    agent, block, angle = (200.0, 330.0), (240.0, 210.0), 0.3
    picture, keypoints, coverage = look(agent, block, angle)
    mirrored = [tuple(PUSHT.features["action"](torch.tensor(point)).tolist()) for point in (agent, block)]
    picture_m, keypoints_m, coverage_m = look(*mirrored, math.pi / 2 - angle)
    torch.testing.assert_close(PUSHT.features["observation.environment_state"](keypoints), keypoints_m)
    assert coverage_m == pytest.approx(coverage)
    assert coverage > 0.1
    difference = (PUSHT.map_pixels(picture) - picture_m).abs()
    assert (difference > 20).float().mean() < 0.01
    assert (picture - picture_m).abs().mean() > 5 * difference.mean()
    env.close()


@pytest.mark.parametrize("name", sorted(PIXEL_MAPS))
def test_picture_maps_are_their_own_inverse(name):
    picture = torch.rand(2, 3, 6, 6)
    assert torch.equal(PIXEL_MAPS[name](PIXEL_MAPS[name](picture)), picture)


@pytest.mark.parametrize(
    ("symmetry", "cameras", "message"),
    [
        (Symmetry({}), {}, r"action: the symmetry has no map"),
        (Symmetry({"action": AffineMap((0, 0))}), {}, r"action: .* permute 0\.\.1"),
        (Symmetry({"action": AffineMap((1, 0))}), {"top": (8, 8)}, "top: .* pictures"),
        (Symmetry({"action": AffineMap((1, 0))}, "antitranspose"), {"top": (8, 9)}, "top: .* square"),
    ],
)
def test_incomplete_symmetries_are_refused(symmetry, cameras, message):
    with pytest.raises(UserError, match=message):
        symmetry.check({"action": 2}, cameras)


def test_a_symmetry_can_be_named_or_written_out():
    assert find_symmetry(None) is None
    assert find_symmetry("pusht") is PUSHT
    written = find_symmetry(
        {"features": {"action": {"permutation": [1, 0], "sign": -1, "offset": [512, 512]}}}
    )
    point = torch.tensor([[10.0, 20.0]])
    assert torch.equal(written.features["action"](point), PUSHT.features["action"](point))
    with pytest.raises(UserError, match="Available: pusht"):
        find_symmetry("push")
    with pytest.raises(UserError, match="permutations"):
        find_symmetry({"features": {"action": {"permutations": [1, 0]}}})
