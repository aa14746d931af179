"""The operator's corrections as a dataset of their own."""

from pathlib import Path

import numpy as np
import pytest
from fake_recording import FPS, VIDEO, frame, spec
from lerobot.datasets.dataset_tools import merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.data.interventions import runs_of
from ebt_policy.errors import UserError
from ebt_policy.hardware.recording.corrections import corrections
from ebt_policy.hardware.recording.episode_writer import EpisodeWriter

FLAG = {"dtype": "bool", "shape": (1,), "names": None}


def recorded(root: Path, episodes: list[str]) -> None:
    """Episodes of frames that are the policy's "." or the operator's "x"."""
    made = spec(root)
    made.features["intervention"] = FLAG
    writer = EpisodeWriter(made)
    tick = 0
    for episode in episodes:
        for letter in episode:
            writer.add(frame(tick) | {"intervention": np.array([letter == "x"])}, "put it there", tick / FPS)
            tick += 1
        writer.save(True)
    writer.close()


@pytest.mark.parametrize(
    ("flags", "episodes", "expected"),
    [
        ("..xx..", "000000", [(2, 4)]),
        ("xx.xxx", "000000", [(0, 2), (3, 6)]),
        ("xxxx", "0011", [(0, 2), (2, 4)]),
        ("....", "0011", []),
    ],
)
def test_each_stretch_within_an_episode_is_a_correction(flags: str, episodes: str, expected: list):
    assert runs_of(np.array([c == "x" for c in flags]), np.array(list(episodes))) == expected


def test_the_recovery_parts_alone_are_a_dataset(tmp_path: Path):
    recorded(tmp_path / "all", ["..xxxx..", "...", "xxx..xxx"])
    text = corrections(tmp_path / "all", tmp_path / "parts")
    assert "3 corrections of 3 episodes, 10 frames" in text
    data = LeRobotDataset("local/corrections", root=tmp_path / "parts")
    assert list(data.meta.episodes["length"]) == [4, 3, 3] and data.fps == FPS
    states = [float(data[i]["observation.state"][0]) for i in range(len(data))]
    assert states == [2, 3, 4, 5, 11, 12, 13, 16, 17, 18]
    assert all(bool(data[i]["intervention"]) for i in range(len(data)))
    assert data[0]["task"] == "put it there"
    assert float(data[9][VIDEO].mean()) == pytest.approx(18 * 8 / 255, abs=0.03)


def test_what_led_to_a_correction_can_come_along_and_is_marked(tmp_path: Path):
    recorded(tmp_path / "all", [".....xxx"])
    corrections(tmp_path / "all", tmp_path / "parts", before_s=2 / FPS)
    data = LeRobotDataset("local/corrections", root=tmp_path / "parts")
    assert [bool(data[i]["intervention"]) for i in range(len(data))] == [False, False, True, True, True]


def test_without_the_column_the_features_are_those_of_demonstrations(tmp_path: Path):
    recorded(tmp_path / "all", ["..xxx"])
    corrections(tmp_path / "all", tmp_path / "parts", flag=False)
    demonstrations = EpisodeWriter(spec(tmp_path / "demonstrations"))
    for tick in range(3):
        demonstrations.add(frame(tick), "put it there", tick / FPS)
    demonstrations.save(True)
    demonstrations.close()
    two = [LeRobotDataset("local/arm", root=tmp_path / name) for name in ("demonstrations", "parts")]
    merged = merge_datasets(two, "local/merged", tmp_path / "merged")
    assert (merged.num_episodes, len(merged)) == (2, 6)
    with pytest.raises(UserError, match="--before-s"):
        corrections(tmp_path / "all", tmp_path / "more", before_s=1.0, flag=False)


def test_nothing_to_export_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="no LeRobot dataset"):
        corrections(tmp_path / "none", tmp_path / "parts")
    recorded(tmp_path / "all", ["...."])
    with pytest.raises(UserError, match="nobody took over in its 1 episodes"):
        corrections(tmp_path / "all", tmp_path / "parts")
    with pytest.raises(UserError, match="exists"):
        corrections(tmp_path / "all", tmp_path / "all")
