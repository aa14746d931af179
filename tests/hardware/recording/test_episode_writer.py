"""Every finished episode stays complete in the dataset, whatever fails afterwards."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_recording import FPS, VIDEO, frame, spec
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.errors import UserError
from ebt_policy.hardware.recording import episode_files, episode_writer
from ebt_policy.hardware.recording.episode_writer import EpisodeWriter


def record(writer: EpisodeWriter, ticks: int, video: bool = True, success: bool | None = True) -> int | None:
    for tick in range(ticks):
        writer.add(frame(tick, video), "put it there", 100 + tick / FPS)
    return writer.save(success)


def loaded(root: Path) -> LeRobotDataset:
    return LeRobotDataset("local/arm", root=root)


def test_lerobot_reads_what_was_recorded(tmp_path: Path):
    writer = EpisodeWriter(spec(tmp_path / "d"))
    assert record(writer, 7) == 0 and record(writer, 5, success=False) == 1
    assert record(writer, 1) is None  # too short
    writer.close()
    data = loaded(tmp_path / "d")
    assert data.fps == FPS and data.num_episodes == 2 and len(data) == 12
    assert list(data.meta.episodes["length"]) == [7, 5]
    assert data.meta.names["action"] == ["a.pos", "b.pos", "c.pos"] and list(data.meta.tasks.index) == [
        "put it there"
    ]
    for i, tick in enumerate([*range(7), *range(5)]):
        item = data[i]
        assert item["action"].tolist() == [tick + 0.5] * 3 and item["task"] == "put it there"
        assert item[VIDEO].shape == (3, 32, 48) and abs(float(item[VIDEO].mean()) * 255 - tick * 8) < 4
    records = [json.loads(line) for line in (tmp_path / "d/meta/recording.jsonl").read_text().splitlines()]
    assert [(r["episode"], r["success"], r["frames"], r["dropped"]) for r in records] == [
        (0, True, 7, 0),
        (1, False, 5, 0),
    ]
    assert not (tmp_path / "d.staging").exists()


def test_the_log_lies_beside_its_episode(tmp_path: Path):
    writer = EpisodeWriter(spec(tmp_path / "d", video=False))
    writer.note({"kind": "decision", "time": 99.5, "energy": np.array([1.5, 0.5])})
    record(writer, 3, video=False)
    lines = [json.loads(s) for s in (tmp_path / "d/logs/episode_000000.jsonl").read_text().splitlines()]
    assert lines[0] == {"kind": "decision", "time": 99.5, "energy": [1.5, 0.5]}
    assert [(s["frame"], s["time"]) for s in lines[1:]] == [(0, 100.0), (1, 100.05), (2, 100.1)]
    writer.close()


def test_gaps_are_told_and_a_discarded_episode_is_not(tmp_path: Path):
    writer = EpisodeWriter(spec(tmp_path / "d"))
    writer.add(frame(0), "t", 0.0)
    writer.discard()
    for tick, missing in enumerate((2, 0, 5)):
        writer.add(frame(tick), "t", float(tick), missing)
    writer.save(None, missing=1)
    writer.close()
    (found,) = map(json.loads, (tmp_path / "d/meta/recording.jsonl").read_text().splitlines())
    assert found["dropped"] == 8 and found["gaps"] == [[0, 2], [2, 5], [3, 1]] and found["success"] is None
    assert loaded(tmp_path / "d").num_episodes == 1


def test_pictures_as_images(tmp_path: Path):
    description = spec(tmp_path / "d")
    features = {
        name: {**f, "dtype": f["dtype"].replace("video", "image")} for name, f in description.features.items()
    }
    writer = EpisodeWriter(spec(tmp_path / "d", features=features))
    record(writer, 3)
    record(writer, 2)
    writer.close()
    data = loaded(tmp_path / "d")
    assert len(data) == 5 and abs(float(data[2][VIDEO].mean()) * 255 - 16) < 0.5


def test_a_later_writer_appends(tmp_path: Path):
    for ticks in (4, 3):
        writer = EpisodeWriter(spec(tmp_path / "d"))
        record(writer, ticks)
        writer.close()
    data = loaded(tmp_path / "d")
    assert list(data.meta.episodes["length"]) == [4, 3]
    assert [data[i]["frame_index"].item() for i in range(7)] == [0, 1, 2, 3, 0, 1, 2]
    assert abs(float(data[6][VIDEO].mean()) * 255 - 16) < 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fps": 30}, "fps: 20 there, 30 here"),
        ({"video": False}, f"{VIDEO}: video (32, 48, 3) ['height', 'width', 'channels'] there, missing here"),
    ],
)
def test_another_kind_of_dataset_is_refused(tmp_path: Path, changes: dict, said: str):
    writer = EpisodeWriter(spec(tmp_path / "d"))
    record(writer, 2)
    writer.close()
    with pytest.raises(UserError) as error:
        EpisodeWriter(spec(tmp_path / "d", **changes))
    assert said in str(error.value)


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no LeRobot dataset"):
        EpisodeWriter(spec(tmp_path))
    assert (tmp_path / "note.txt").exists()


def test_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(episode_writer, "LOCK_S", 0.2)
    writer = EpisodeWriter(spec(tmp_path / "d"))
    with pytest.raises(UserError, match="being written by another process"):
        EpisodeWriter(spec(tmp_path / "d"))
    writer.close()
    EpisodeWriter(spec(tmp_path / "d")).close()


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (LeRobotDataset, "add_frame"),
        (LeRobotDataset, "save_episode"),
        (LeRobotDataset, "finalize"),
        (LeRobotDatasetMetadata, "save_episode"),
        (shutil, "copytree"),
        (os, "fsync"),
    ],
)
def test_a_full_disk_costs_only_the_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner, name: str
):
    writer = EpisodeWriter(spec(tmp_path / "d"))
    record(writer, 4)
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, full)
        with pytest.raises(OSError, match="No space"):
            record(writer, 3)
        writer.close()
    assert not (tmp_path / "d.staging").exists()
    assert loaded(tmp_path / "d").num_frames == 4
    writer = EpisodeWriter(spec(tmp_path / "d"))
    record(writer, 2)
    writer.close()
    assert list(loaded(tmp_path / "d").meta.episodes["length"]) == [4, 2]


@pytest.mark.slow
def test_death_between_any_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Readable at once, and the next episode takes the place of the one that was cut off."""
    whole = tmp_path / "whole"
    writer = EpisodeWriter(spec(whole))
    record(writer, 4)
    writer.close()
    moves = 0
    while True:
        root = tmp_path / f"cut{moves}"
        shutil.copytree(whole, root)
        writer = EpisodeWriter(spec(root))
        left = moves

        def move(source, target):
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            os.rename(source, target)

        with monkeypatch.context() as dying:
            dying.setattr(episode_files.os, "replace", move)
            try:
                record(writer, 3)
                break
            except KeyboardInterrupt:
                writer._exit.close()  # a dead process holds no lock; nothing else is cleaned up
        assert loaded(root).num_episodes == 1 and [
            loaded(root)[i]["frame_index"].item() for i in range(4)
        ] == [0, 1, 2, 3]
        writer = EpisodeWriter(spec(root))
        record(writer, 5)
        writer.close()
        data = loaded(root)
        assert list(data.meta.episodes["length"]) == [4, 5] and len(data.hf_dataset) == 9
        assert abs(float(data[8][VIDEO].mean()) * 255 - 32) < 4
        episodes = [
            json.loads(s)["episode"] for s in (root / "meta/recording.jsonl").read_text().splitlines()
        ]
        assert episodes == [0, 1]
        moves += 1
    assert moves >= 7  # data, video, log, tasks, stats, episodes, recording; info.json is the last
    writer.close()


def test_a_slow_encoder_loses_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lerobot.datasets import video_utils

    monkeypatch.setattr(episode_writer, "ENCODER_FRAMES", 1)
    original = video_utils.Image.fromarray

    def slow(picture):
        import time

        time.sleep(0.15)  # LeRobot waits .1 s and drops
        return original(picture)

    monkeypatch.setattr(video_utils.Image, "fromarray", slow)
    writer = EpisodeWriter(spec(tmp_path / "d"))
    record(writer, 6)
    writer.close()
    assert abs(float(loaded(tmp_path / "d")[5][VIDEO].mean()) * 255 - 40) < 4
