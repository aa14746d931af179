"""Windows equal LeRobot's own samples; a wrong dataset name is an error and creates no files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.processor import NormalizerProcessorStep
from lerobot.utils import constants

from ebt_policy.data import camera_frames, open_dataset
from ebt_policy.data.episodes import choose_episodes, split_episodes
from ebt_policy.data.goal_alignment import PUSHT
from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.symmetry import SYMMETRIES
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError
from ebt_policy.model.augmentation import resized

STATE, KEYPOINTS, ACTION = "observation.state", "observation.environment_state", "action"
FEATURES = [STATE, KEYPOINTS, ACTION]
DELTAS = {"observation_delta_indices": [-1, 0], "action_delta_indices": list(range(16))}


def assert_equals_lerobot(windows: Windows, reference: LeRobotDataset, rows: list[int]) -> None:
    """Sample i of `windows` is item rows[i] of `reference`: values, padding flags and types."""
    assert len(windows) == len(rows)
    batch = windows.batch(torch.arange(len(rows)))
    for sample, row in enumerate(rows):
        item = reference[row]
        assert windows.episode_index[sample] == item["episode_index"]
        for key, values in batch.items():
            torch.testing.assert_close(values[sample], item[key], rtol=0, atol=0, msg=f"{key}, row {row}")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    past=st.integers(0, 3),
    ahead=st.integers(1, 40),  # longer than an episode, too
    drop=st.integers(0, 20),
    episodes=st.none() | st.sets(st.integers(0, 3), min_size=1).map(lambda ids: list(ids)[::-1]),
)
def test_every_sample_equals_lerobots(tiny_dataset, past, ahead, drop, episodes):
    repo_id, root = tiny_dataset
    windows = Windows.from_lerobot(
        repo_id,
        root,
        features=FEATURES,
        observation_delta_indices=list(range(-past, 1)),
        action_delta_indices=list(range(ahead)),
        episodes=episodes,
        drop_n_last_frames=drop,
    )
    fps = windows.meta.fps
    observed = [i / fps for i in range(-past, 1)]
    deltas = {STATE: observed, KEYPOINTS: observed, ACTION: [i / fps for i in range(ahead)]}
    reference = LeRobotDataset(repo_id, root, episodes=episodes, delta_timestamps=deltas)
    sampler = EpisodeAwareSampler(
        reference.meta.episodes["dataset_from_index"],
        reference.meta.episodes["dataset_to_index"],
        episode_indices_to_use=reference.episodes,
        drop_n_last_frames=drop,
        absolute_to_relative_idx=reference.absolute_to_relative_idx,
    )
    assert_equals_lerobot(windows, reference, sampler.indices)


def test_no_observation_offsets_means_no_time_dimension(tiny_dataset):
    repo_id, root = tiny_dataset
    windows = Windows.from_lerobot(
        repo_id,
        root,
        features=[*FEATURES, "frame_index"],
        observation_delta_indices=None,
        action_delta_indices=[0, 1],
    )
    reference = LeRobotDataset(repo_id, root, delta_timestamps={ACTION: [0, 0.1]})
    assert_equals_lerobot(windows, reference, list(range(len(reference))))


def test_batch_takes_any_order_and_repetition(tiny_dataset):
    windows = Windows.from_lerobot(*tiny_dataset, features=FEATURES, **DELTAS)
    indices = torch.tensor([5, 5, 0, len(windows) - 1])
    whole = windows.batch(torch.arange(len(windows)))
    for key, values in windows.batch(indices).items():
        assert torch.equal(values, whole[key][indices])


def test_features_of_one_number_keep_their_dimension(tmp_path):
    """LeRobot drops it; a policy expects (B, T, 1) and (B, H, 1)."""
    one = {"dtype": "float32", "shape": (1,), "names": None}
    dataset = LeRobotDataset.create(
        "tests/one", fps=10, root=tmp_path / "d", features={STATE: one, ACTION: one}
    )
    for tick in range(4):
        dataset.add_frame({STATE: np.float32([tick]), ACTION: np.float32([tick + 1]), "task": "count"})
    dataset.save_episode()
    dataset.finalize()
    batch = Windows.from_lerobot("tests/one", tmp_path / "d", features=[STATE, ACTION], **DELTAS).batch(
        torch.tensor([2])
    )
    assert batch[STATE].tolist() == [[[1.0], [2.0]]]
    assert batch[ACTION].tolist() == [[[3.0], [4.0]] + [[4.0]] * 14]
    assert batch["action_is_pad"].tolist() == [[False, False] + [True] * 14]


def test_goal_alignment_moves_the_frames_before_they_are_mirrored(tiny_dataset):
    symmetry = SYMMETRIES["pusht"]
    plain, moved, both = (
        Windows.from_lerobot(*tiny_dataset, features=FEATURES, **DELTAS, **options)
        for options in ({}, {"goal_alignment": PUSHT}, {"goal_alignment": PUSHT, "symmetry": symmetry})
    )
    rows = torch.arange(len(plain))
    aligned, mirrored = moved.batch(rows), both.batch(torch.arange(len(both)))
    for key in FEATURES:
        assert not torch.allclose(aligned[key], plain.batch(rows)[key], atol=1.0)
        assert torch.equal(mirrored[key][: len(rows)], aligned[key])
        assert torch.equal(mirrored[key][len(rows) :], symmetry.features[key](aligned[key]))
    assert torch.equal(moved.episode_index, plain.episode_index)


def test_symmetry_doubles_the_frames_and_keeps_the_episodes_apart(tiny_dataset):
    symmetry = SYMMETRIES["pusht"]
    plain = Windows.from_lerobot(*tiny_dataset, features=FEATURES, episodes=[1], **DELTAS)
    doubled = Windows.from_lerobot(
        *tiny_dataset, features=FEATURES, episodes=[1], symmetry=symmetry, **DELTAS
    )
    n = len(plain)
    assert len(doubled) == 2 * n
    assert set(doubled.episode_index.tolist()) == {1}
    real, whole = plain.batch(torch.arange(n)), doubled.batch(torch.arange(2 * n))
    for key, values in real.items():
        assert torch.equal(whole[key][:n], values)
        mirrored = symmetry.features[key](values) if key in FEATURES else values
        torch.testing.assert_close(whole[key][n:], mirrored, rtol=0, atol=1e-4)


def test_statistics_are_those_of_the_frames_in_use(tiny_dataset):
    symmetry = SYMMETRIES["pusht"]
    windows = Windows.from_lerobot(
        *tiny_dataset, features=FEATURES, episodes=[0, 2], symmetry=symmetry, **DELTAS
    )
    samples = torch.arange(len(windows))
    for key in FEATURES:
        frames = windows.batch(samples)[key][:, -1 if key != ACTION else 0].numpy().astype(np.float64)
        stats = windows.stats[key]
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(stats[name], getattr(frames, name)(0), rtol=1e-6)
        np.testing.assert_allclose((frames <= stats["q50"]).mean(0), 0.5, atol=0.02)
        assert stats["count"] == len(frames)
    normaliser = NormalizerProcessorStep(
        features={ACTION: PolicyFeature(FeatureType.ACTION, (2,))},
        norm_map={FeatureType.ACTION: NormalizationMode.MIN_MAX},
        stats=windows.stats,
    )
    action = normaliser({"action": windows.batch(samples)[ACTION]})["action"]
    assert action.min() == pytest.approx(-1, abs=1e-5)
    assert action.max() == pytest.approx(1, abs=1e-5)


CAMERA = ["observation.images.top", STATE, ACTION]


@pytest.mark.parametrize("episodes", [None, [1]])
def test_pictures_equal_lerobots(camera_dataset, episodes):
    windows = Windows.from_lerobot(*camera_dataset, features=CAMERA, episodes=episodes, **DELTAS)
    deltas = {key: [-0.1, 0] for key in CAMERA[:2]} | {ACTION: [i / 10 for i in range(16)]}
    reference = LeRobotDataset(
        *camera_dataset, episodes=episodes, delta_timestamps=deltas, video_backend="pyav"
    )
    assert_equals_lerobot(windows, reference, list(range(len(reference))))


@pytest.mark.parametrize("block", [2, 64])  # of 5 and 7 frames
def test_pictures_made_smaller_differ_from_the_encoders_by_rounding_only(camera_dataset, block, monkeypatch):
    monkeypatch.setattr(camera_frames, "BLOCK", block)
    options = {"features": CAMERA} | DELTAS
    large = Windows.from_lerobot(*camera_dataset, **options)
    # 12 frames of 12 x 20 are 8.64e-6 GB: the bound counts what is kept.
    small = Windows.from_lerobot(*camera_dataset, resize_shape=(12, 20), image_cache_gb=8.7e-6, **options)
    rows = torch.arange(len(large))
    whole, found = large.batch(rows), small.batch(rows)
    expected = resized(whole[CAMERA[0]].flatten(0, 1), (12, 20)).unflatten(0, (len(rows), 2))
    torch.testing.assert_close(found[CAMERA[0]], expected, rtol=0, atol=0.5 / 255 + 1e-6)
    assert (found[CAMERA[0]] * 255).round().div(255).equal(found[CAMERA[0]])
    for key in set(found) - {CAMERA[0]}:
        assert torch.equal(found[key], whole[key])
    np.testing.assert_allclose(small.stats[CAMERA[0]]["mean"], large.stats[CAMERA[0]]["mean"], atol=2e-3)


def test_pictures_of_the_right_size_are_kept_to_the_bit(camera_dataset):
    plain, same = (
        Windows.from_lerobot(*camera_dataset, features=CAMERA, resize_shape=shape, **DELTAS)
        for shape in (None, (24, 32))
    )
    rows = torch.arange(len(plain))
    assert torch.equal(plain.batch(rows)[CAMERA[0]], same.batch(rows)[CAMERA[0]])


def test_state_only_training_needs_no_video(camera_dataset, tmp_path):
    meta = open_metadata(*camera_dataset)
    if not meta.video_keys:
        pytest.skip("pictures lie in the table")
    (tmp_path / "meta").symlink_to(meta.root / "meta")
    (tmp_path / "data").symlink_to(meta.root / "data")
    assert len(Windows.from_lerobot("tests/camera", tmp_path, features=[STATE, ACTION], **DELTAS)) == 12
    with pytest.raises(UserError, match=r"observation\.images\.top, episode 0.*missing"):
        Windows.from_lerobot("tests/camera", tmp_path, features=CAMERA, **DELTAS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ["observation.stat", ACTION]}, r"Did you mean 'observation\.state'"),
        ({"episodes": [0, 17]}, r"episodes 0 to 3; asked for \[17\]"),
        ({"drop_n_last_frames": 99}, "No frame is left"),
    ],
)
def test_wrong_requests_are_explained(tiny_dataset, change, message):
    with pytest.raises(UserError, match=message):
        Windows.from_lerobot(*tiny_dataset, **({"features": FEATURES} | DELTAS | change))


@pytest.fixture
def home(tiny_dataset, tmp_path, monkeypatch) -> Path:
    """HF_LEROBOT_HOME with one dataset, lerobot/pusht_keypoints, and no way to the Hub."""
    (tmp_path / "lerobot").mkdir()
    (tmp_path / "lerobot" / "pusht_keypoints").symlink_to(tiny_dataset[1])
    monkeypatch.setattr(constants, "HF_LEROBOT_HOME", tmp_path)
    monkeypatch.setattr(constants, "HF_LEROBOT_HUB_CACHE", tmp_path / "hub")
    monkeypatch.setattr(open_dataset, "is_offline_mode", lambda: True)
    return tmp_path


def test_a_name_is_found_in_lerobots_home(home):
    assert open_metadata("lerobot/pusht_keypoints").total_episodes == 4


@pytest.mark.parametrize(
    ("repo_id", "root", "message"),
    [
        ("lerobot/pusht_keypoint", None, "Did you mean 'lerobot/pusht_keypoints'"),
        ("somebody/pusht_keypoints", None, "Did you mean 'lerobot/pusht_keypoints'"),
        ("nothing/like_it", None, "Local datasets: lerobot/pusht_keypoints"),
        ("lerobot/pusht_keypoints", "mistyped", "holds no LeRobot dataset"),
        ("lerobot/pusht_keypoints", ".", r"Did you mean root=.*lerobot/pusht_keypoints"),
    ],
)
def test_a_wrong_name_or_root_says_so_and_creates_nothing(home, repo_id, root, message):
    before = sorted(home.rglob("*"))
    with pytest.raises(UserError, match=message):
        open_metadata(repo_id, None if root is None else home / root)
    assert sorted(home.rglob("*")) == before


def test_an_unfinished_recording_is_named_as_such(home):
    info = home / "me" / "half" / "meta" / "info.json"
    info.parent.mkdir(parents=True)
    info.write_bytes((home / "lerobot" / "pusht_keypoints" / "meta" / "info.json").read_bytes())
    with pytest.raises(UserError, match=r"incomplete.*finalize"):
        open_metadata("me/half")


@given(n=st.integers(2, 300), fraction=st.floats(0, 0.5), seed=st.integers(0, 9))
def test_split_is_complete_disjoint_and_repeatable(n, fraction, seed):
    train, held_out = split_episodes(n, fraction, seed)
    assert sorted(train + held_out) == list(range(n))
    assert (train, held_out) == split_episodes(n, fraction, seed)
    assert train
    assert bool(held_out) == (fraction > 0)


def test_split_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match=r"leaves none.*--set dataset\.held_out_fraction=0"):
        split_episodes(1, 0.1, 0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([0, 2, 2], r"\[2\] named more than once"),
        ([0, 4], r"episodes 0 to 3; asked for \[4\]"),
        ([-1], r"asked for \[-1\]"),
        ([], "asked for none"),
    ],
)
def test_episodes_that_cannot_be_used_are_named(wanted, message):
    with pytest.raises(UserError, match=message):
        choose_episodes(4, wanted)


@given(wanted=st.none() | st.sets(st.integers(0, 9), min_size=1).map(list))
def test_chosen_episodes_are_those_asked_for(wanted):
    assert choose_episodes(10, wanted) == (list(range(10)) if wanted is None else wanted)


def test_statistics_of_cameras_are_those_of_the_decoded_pictures(camera_dataset):
    """Whatever meta/stats.json says: it may be missing, or in 0..255."""
    windows = Windows.from_lerobot(*camera_dataset, features=CAMERA, **DELTAS)
    pictures = windows.batch(torch.arange(len(windows)))[CAMERA[0]][:, -1].double()  # (F, C, H, W)
    stats = windows.stats[CAMERA[0]]
    for name, expected in {
        "mean": pictures.mean((0, 2, 3)),
        "std": pictures.std((0, 2, 3), correction=0),
        "min": pictures.amin((0, 2, 3)),
        "max": pictures.amax((0, 2, 3)),
    }.items():
        np.testing.assert_allclose(stats[name], expected.view(3, 1, 1), atol=1e-6)
    for name in ("q01", "q10", "q50", "q90", "q99"):
        below = (pictures <= torch.from_numpy(stats[name]) + 1e-6).double().mean((0, 2, 3))
        assert (below >= int(name[1:]) / 100 - 1e-9).all()
    assert stats["count"] == len(pictures)


def test_pictures_of_another_size_than_declared_are_refused(camera_dataset, tmp_path):
    root = shutil.copytree(camera_dataset[1], tmp_path / "d")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA[0]]["shape"] = [48, 64, 3]
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"images\.top, episode 0: the stored pictures are 24 x 32.*48 x 64"):
        Windows.from_lerobot("tests/camera", root, features=CAMERA, **DELTAS)
