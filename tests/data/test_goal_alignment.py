"""Goal alignment moves whole episodes rigidly so that they end on the goal, and refuses features that it cannot move."""

import math

import pytest
import torch

from ebt_policy.data.goal_alignment import PUSHT, GoalAlignment, find_goal_alignment
from ebt_policy.errors import UserError

STATE, KEYPOINTS, ACTION = PUSHT.features
LENGTHS = (7, 1, 12)
EPISODES = torch.repeat_interleave(torch.tensor([4, 9, 2]), torch.tensor(LENGTHS))


def demonstrations(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random pushers and actions; the T is rigid and wanders near the goal."""
    generator = torch.Generator().manual_seed(seed)
    n = len(EPISODES)
    goal = torch.tensor(PUSHT.goal)
    angle = 0.3 * torch.randn(n, generator=generator)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(n, 2, 2)
    place = 256 + 20 * torch.randn(n, 1, 2, generator=generator)
    keypoints = (goal - goal.mean(0)) @ turn.mT + place
    points = 512 * torch.rand(n, 4, generator=generator)
    return {STATE: points[:, :2], ACTION: points[:, 2:], KEYPOINTS: keypoints.flatten(1)}


def scene(columns: dict[str, torch.Tensor]) -> torch.Tensor:
    """All points of a frame: pusher, target, T (F, 10, 2)."""
    return (
        torch.cat([columns[STATE], columns[ACTION], columns[KEYPOINTS]], -1).double().unflatten(-1, (-1, 2))
    )


def test_every_episode_moves_as_one_rigid_piece():
    before = demonstrations()
    after = PUSHT(before, EPISODES)
    assert all(after[key].dtype == values.dtype for key, values in before.items())
    for episode in EPISODES.unique():
        rows = episode == EPISODES
        # All distances between any two points of any two frames of the episode.
        old, new = (scene(columns)[rows].flatten(0, 1) for columns in (before, after))
        torch.testing.assert_close(torch.cdist(new, new), torch.cdist(old, old), rtol=0, atol=1e-2)
        assert not torch.allclose(old, new, atol=1.0)


def test_the_object_ends_on_the_goal():
    still = GoalAlignment(PUSHT.object, PUSHT.goal, PUSHT.features, coast=0.0)
    after = still(demonstrations(), EPISODES)
    last = torch.tensor(LENGTHS).cumsum(0) - 1
    ends = after[KEYPOINTS][last].unflatten(-1, (-1, 2))
    torch.testing.assert_close(ends, torch.tensor(PUSHT.goal).expand_as(ends), rtol=0, atol=1e-3)


def test_coasting_aims_at_where_the_object_will_come_to_rest():
    columns = demonstrations()
    frames = torch.arange(7)[:, None]
    goal = torch.tensor(PUSHT.goal)
    columns[KEYPOINTS][:7] = (goal + torch.tensor([100.0, 0.0])).flatten() + 3.0 * frames
    after = PUSHT(columns, EPISODES)[KEYPOINTS][:7].unflatten(-1, (-1, 2))
    torch.testing.assert_close(after[6] + PUSHT.coast * (after[6] - after[5]), goal, rtol=0, atol=1e-3)


def test_what_lies_on_the_goal_stays():
    columns = demonstrations()
    columns[KEYPOINTS] = torch.tensor(PUSHT.goal).flatten().repeat(len(EPISODES), 1)
    for key, values in PUSHT(columns, EPISODES).items():
        torch.testing.assert_close(values, columns[key], rtol=0, atol=1e-3)


def test_features_that_are_no_places_are_left_alone():
    columns = demonstrations() | {"observation.force": torch.ones(len(EPISODES), 3)}
    assert torch.equal(PUSHT(columns, EPISODES)["observation.force"], columns["observation.force"])


def test_pusht_goal_is_full_coverage():
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("gym_pusht")
    env = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos").unwrapped
    env.reset(seed=0)
    env.block.angle, env.block.position = math.pi / 4, (256.0, 256.0)
    keypoints = torch.as_tensor(env.get_obs()["environment_state"]).float().view(8, 2)
    assert env._get_coverage() == pytest.approx(1.0)
    torch.testing.assert_close(keypoints, torch.tensor(PUSHT.goal), rtol=0, atol=1e-3)
    env.close()


@pytest.mark.parametrize(
    ("columns", "cameras", "message"),
    [
        ({ACTION: torch.zeros(1, 2)}, [], "environment_state: goal_alignment needs this feature"),
        ({KEYPOINTS: torch.zeros(1, 6)}, [], "environment_state: .* 8 points, that is 16 numbers; found 6"),
        ({KEYPOINTS: torch.zeros(1, 16)}, ["top"], "top: pictures cannot be moved"),
    ],
)
def test_what_cannot_be_aligned_is_refused(columns, cameras, message):
    with pytest.raises(UserError, match=message):
        PUSHT.check(columns, cameras)


def test_an_alignment_can_be_named_or_written_out():
    assert find_goal_alignment(None) is None
    assert find_goal_alignment("pusht") is PUSHT
    fields = {"object": KEYPOINTS, "goal": [list(p) for p in PUSHT.goal], "features": list(PUSHT.features)}
    assert find_goal_alignment(fields | {"coast": 2.0}) == PUSHT
    with pytest.raises(UserError, match="Available: pusht"):
        find_goal_alignment("push")
    with pytest.raises(UserError, match="goals"):
        find_goal_alignment({"goals": []})
