"""Pictures cached on disk: equal to those in memory, never outdated, and with bounded memory use."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ebt_policy.data import camera_frames, frame_cache
from ebt_policy.data.cache_contents import entries, remove
from ebt_policy.data.frame_cache import FramesOnDisk, cache_folder
from ebt_policy.data.symmetry import AffineMap, Symmetry
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError

CAMERA, STATE, ACTION = "observation.images.top", "observation.state", "action"
OPTIONS = {
    "features": [CAMERA, STATE, ACTION],
    "observation_delta_indices": [-1, 0],
    "action_delta_indices": list(range(4)),
}
MIRROR = Symmetry({STATE: AffineMap((1, 0)), ACTION: AffineMap((1, 0))}, pixels="horizontal")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EBT_POLICY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def on_disk(dataset: tuple[str, Path], **options) -> Windows:
    return Windows.from_lerobot(*dataset, **OPTIONS | {"image_cache_gb": 0.0} | options)


def kept() -> set[str]:
    return {path.name for path in cache_folder().rglob("*.u8")}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Episodes of which pictures are read from the dataset, in the order of reading."""
    episodes: list[int] = []
    make = camera_frames.picture_reader

    def counting(*arguments):
        read = make(*arguments)

        def reader(episode: int, start: int, stop: int):
            episodes.append(episode)
            return read(episode, start, stop)

        return reader

    monkeypatch.setattr(camera_frames, "picture_reader", counting)
    return episodes


@pytest.mark.parametrize("options", [{}, {"resize_shape": (12, 20)}, {"symmetry": MIRROR}, {"episodes": [1]}])
def test_samples_and_statistics_equal_those_in_memory(camera_dataset, options) -> None:
    disk, memory = (
        on_disk(camera_dataset, **options),
        Windows.from_lerobot(*camera_dataset, **OPTIONS, **options),
    )
    rows = torch.randperm(len(memory))
    expected = memory.batch(rows)
    for name, values in disk.batch(rows).items():
        assert torch.equal(values, expected[name]), name
    for statistic, value in memory.stats[CAMERA].items():
        assert (disk.stats[CAMERA][statistic] == value).all(), statistic


def test_each_episode_is_decoded_once_for_all_parts_of_the_data(camera_dataset, decoded) -> None:
    on_disk(camera_dataset, episodes=[1])
    assert decoded == [1]
    on_disk(camera_dataset)
    assert decoded == [1, 0]
    on_disk(camera_dataset)
    assert decoded == [1, 0]
    on_disk(camera_dataset, resize_shape=(12, 20))
    assert sorted(decoded[2:]) == [0, 1]


def test_what_was_interrupted_goes_on_where_it_stopped(camera_dataset, decoded, monkeypatch) -> None:
    work = camera_frames.CameraDecoder.blocks

    def fails(self, episode: int, start: int, stop: int):
        yield from work(self, episode, start, stop)
        if episode == 1:  # in the middle of the file
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(camera_frames.CameraDecoder, "blocks", fails)
        on_disk(camera_dataset)
    assert len(kept()) == 1 and not list(cache_folder().rglob("*.tmp"))
    decoded.clear()
    on_disk(camera_dataset)
    assert decoded == [1]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_changed_pictures_are_never_taken_for_the_old_ones(
    make_camera_dataset: Callable, kind: str, tmp_path: Path
) -> None:
    one, other = (make_camera_dataset(tmp_path / f"set_{seed}", kind, seed) for seed in (1, 2))
    first = on_disk(one)
    before = kept()
    second = on_disk(other)
    assert len(before) == 2 and len(kept()) == 4
    rows = torch.arange(len(first))
    assert not torch.equal(first.batch(rows)[CAMERA], second.batch(rows)[CAMERA])


def test_a_file_that_is_cut_short_is_decoded_again_and_missed_in_training(camera_dataset, decoded) -> None:
    windows = on_disk(camera_dataset)
    rows = torch.arange(len(windows))
    expected = windows.batch(rows)[CAMERA]
    for path in cache_folder().rglob("*.u8"):
        with open(path, "r+b") as file:
            file.truncate(1000)
    with pytest.raises(UserError, match="cut short"):
        windows.batch(rows)
    assert torch.equal(on_disk(camera_dataset).batch(rows)[CAMERA], expected)
    remove(entries())
    with pytest.raises(UserError, match="gone"):
        windows.batch(rows)


def test_a_full_disk_is_noticed_before_decoding(camera_dataset, decoded, monkeypatch) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000)
    )
    with pytest.raises(UserError, match=r"2\.76e-05 GB on disk.*1e-06 GB left.*EBT_POLICY_CACHE"):
        on_disk(camera_dataset)
    assert decoded == []


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_others_may_use_the_files_as_the_umask_says_and_the_lock_always(camera_dataset, umask: int) -> None:
    before = os.umask(umask)
    try:
        on_disk(camera_dataset)
    finally:
        os.umask(before)
    files = list(cache_folder().rglob("*.u8"))
    assert len(files) == 2 and {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    (lock,) = cache_folder().glob(".*.lock")
    assert lock.stat().st_mode & 0o777 == 0o666


def test_a_complete_cache_needs_no_right_to_write(camera_dataset, monkeypatch) -> None:
    on_disk(camera_dataset)

    def refused(*_, **__):
        raise PermissionError("somebody else's")

    monkeypatch.setattr(frame_cache, "FileLock", refused)
    on_disk(camera_dataset)
    with pytest.raises(UserError, match="somebody else's.*EBT_POLICY_CACHE"):
        on_disk(camera_dataset, resize_shape=(12, 20))


def test_a_file_that_may_not_be_read_says_so_and_not_that_it_is_gone(camera_dataset, monkeypatch) -> None:
    windows = on_disk(camera_dataset)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(UserError, match="Permission denied.*EBT_POLICY_CACHE") as raised:
        windows.batch(torch.arange(2))
    assert "gone" not in str(raised.value) and "made anew" not in str(raised.value)


def test_only_who_needs_the_same_dataset_waits_and_says_so(capsys) -> None:
    passed = threading.Event()

    def second() -> None:
        with frame_cache.making("me/one"):
            passed.set()

    waiting = threading.Thread(target=second)
    with frame_cache.making("me/one"):
        with frame_cache.making("me/other"):  # does not wait
            pass
        assert capsys.readouterr().out == ""
        waiting.start()
        assert not passed.wait(0.3)
        said = capsys.readouterr().out
    waiting.join(10)
    assert passed.is_set()
    assert said.startswith("Waiting for another training") and "'me/one'" in said and ".me--one.lock" in said


def test_leftovers_of_a_killed_training_go_before_the_next_computes(camera_dataset) -> None:
    on_disk(camera_dataset)
    (file,) = {path.parent for path in cache_folder().rglob("*.u8")}
    (file / "abc.tmp").write_bytes(bytes(1000))
    on_disk(camera_dataset, resize_shape=(12, 20))
    assert not list(cache_folder().rglob("*.tmp"))


def peak_kb() -> int:
    """Most memory that this process held since the last reset, in kB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_memory_stays_bounded_however_many_pictures_there_are(tmp_path: Path) -> None:
    """369 MB of pictures, read in batches of 18 MB: the process grows by a few batches."""
    paths = [tmp_path / f"{i}.u8" for i in range(4)]
    for i, path in enumerate(paths):
        with open(path, "wb") as file:  # a hole, but for the last byte of each picture
            for row in range(100):
                file.seek((row + 1) * 921_600 - 1)
                file.write(bytes([i]))
    frames = FramesOnDisk(paths, [100] * 4, (3, 480, 640))
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
    before = peak_kb()
    seen = sum(int(frames[rows].view(20, -1)[:, -1].sum()) for rows in torch.randperm(400).split(20))
    assert seen == 100 * (0 + 1 + 2 + 3)
    assert peak_kb() - before < 100_000


def test_decoding_to_disk_holds_a_block_for_each_thread(camera_dataset, monkeypatch) -> None:
    """Whatever the length of an episode."""
    monkeypatch.setattr(camera_frames, "BLOCK", 1)
    longest, work = [], camera_frames.CameraDecoder.blocks

    def blocks(self, episode: int, start: int, stop: int):
        for first, pictures in work(self, episode, start, stop):
            longest.append(len(pictures))
            yield first, pictures

    monkeypatch.setattr(camera_frames.CameraDecoder, "blocks", blocks)
    on_disk(camera_dataset, resize_shape=(12, 20))
    assert set(longest) == {1}


def test_rows_of_any_shape(tmp_path: Path) -> None:
    pictures = torch.randint(0, 256, (6, 3, 2, 4), dtype=torch.uint8)
    paths = [tmp_path / "a.u8", tmp_path / "b.u8"]
    for path, part in zip(paths, pictures.split([2, 4]), strict=True):
        path.write_bytes(part.numpy().tobytes())
    frames = FramesOnDisk(paths, [2, 4], (3, 2, 4))
    rows = torch.tensor([[5, 0], [1, 2], [2, 2]])
    assert frames.shape == pictures.shape and len(frames) == 6
    assert torch.equal(frames[rows], pictures[rows])
    assert frames[rows[:0]].shape == (0, 2, 3, 2, 4)
