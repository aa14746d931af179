"""Collecting is deterministic, can be resumed, and reports failed attempts, for any expert."""

import json
from dataclasses import replace

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.envs import collect as module
from ebt_policy.envs.collect import Collection, collect
from ebt_policy.errors import UserError

LIFT = Collection("robosuite_lift", episodes=3, seed=10, disturbance=0.1)


def attempt(wanted: Collection, seed: int) -> dict[str, np.ndarray] | None:
    """Stands in for the simulator: every third seed fails."""
    if seed % 3 == 0:
        return None
    rng, length = np.random.default_rng(seed), 5 + seed % 4
    sizes = {"observation.state": 9, "observation.environment_state": 7, "action": 7}
    made = {name: rng.normal(size=(length, size)).astype(np.float32) for name, size in sizes.items()}
    pictures = {
        f"observation.images.{camera}": rng.integers(0, 255, (length, *wanted.image_size, 3), np.uint8)
        for camera in wanted.cameras
    }
    return made | pictures


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds in the order in which they were tried."""
    pytest.importorskip("robosuite")
    seeds: list[int] = []

    def counted(wanted: Collection, seed: int):
        seeds.append(seed)
        return attempt(wanted, seed)

    monkeypatch.setattr(module, "demonstrate", counted)
    return seeds


def test_the_first_successes_in_the_order_of_their_seeds_are_kept(tmp_path, tried):
    record = collect(LIFT, tmp_path / "lift", "local/lift")
    assert record["seeds"] == [10, 11, 13] and record["attempts"] == 4 == len(tried)
    assert json.loads((tmp_path / "lift" / "collect.json").read_text()) == record
    dataset = LeRobotDataset("local/lift", tmp_path / "lift")
    assert dataset.meta.total_episodes == 3 and dataset.fps == 20
    expected = np.concatenate([attempt(LIFT, seed)["action"] for seed in (10, 11, 13)])
    np.testing.assert_array_equal(np.stack(dataset.hf_dataset["action"]), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["lift"], "nothing is left over"


def test_pictures_are_kept_as_videos(tmp_path):
    collect(
        replace(LIFT, episodes=1, cameras=("agentview",), image_size=(32, 48)),
        tmp_path / "lift",
        "local/lift",
    )
    feature = LeRobotDataset("local/lift", tmp_path / "lift").meta.features["observation.images.agentview"]
    assert feature["dtype"] == "video" and tuple(feature["shape"]) == (32, 48, 3)


def test_an_interrupted_collection_goes_on_and_tries_no_seed_twice(tmp_path, tried, monkeypatch):
    working = module.demonstrate

    def interrupted(wanted, seed):
        if seed == 13:
            raise KeyboardInterrupt
        return working(wanted, seed)

    monkeypatch.setattr(module, "demonstrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(LIFT, tmp_path / "lift", "local/lift")
    assert not (tmp_path / "lift").exists()
    monkeypatch.setattr(module, "demonstrate", working)
    assert collect(LIFT, tmp_path / "lift", "local/lift")["seeds"] == [10, 11, 13]
    assert tried == [10, 11, 12, 13]


def test_parts_of_other_settings_are_not_mixed_in(tmp_path, monkeypatch):
    (tmp_path / "lift.parts").mkdir()
    other = replace(LIFT, disturbance=0.0)
    (tmp_path / "lift.parts" / "settings.json").write_text(json.dumps(other.settings()))
    with pytest.raises(UserError, match="other settings"):
        collect(LIFT, tmp_path / "lift", "local/lift")


def test_mistakes_are_named_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="no expert for 'adroit_door'"):
        collect(Collection("adroit_door", 3, 0, 0.0), tmp_path / "a", "local/a")
    with pytest.raises(UserError, match="no camera 'top'.*agentview"):
        collect(replace(LIFT, cameras=("top",)), tmp_path / "a", "local/a")
    assert not any(tmp_path.iterdir())
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="exists already"):
        collect(LIFT, tmp_path / "b", "local/b")


def test_an_expert_that_never_succeeds_ends_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "demonstrate", lambda *_: None)
    with pytest.raises(UserError, match="failed 40 times in a row"):
        collect(LIFT, tmp_path / "lift", "local/lift")


def test_environments_are_closed_while_the_interpreter_still_runs(tmp_path, monkeypatch):
    closed = []

    class Env:
        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(module, "_open", [Env(), Env()])
    collect(replace(LIFT, episodes=1), tmp_path / "lift", "local/lift")
    assert len(closed) == 2 and not module._open
