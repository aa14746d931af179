"""What the cache holds is listed, and cleared: all, one dataset, or what was not used for long."""

import os
import time
from pathlib import Path

import pytest

from ebt_policy.data import frame_cache
from ebt_policy.data.cache_contents import entries, remove
from ebt_policy.data.feature_maps import Maps
from ebt_policy.data.frame_cache import cache_folder
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError
from ebt_policy.model.augmentation import View
from ebt_policy.model.vision_frozen import FrozenBackbone

CAMERA = "observation.images.top"
OPTIONS = {"features": [CAMERA, "action"], "observation_delta_indices": [0], "action_delta_indices": [0]}
MAPS = 2 * (32 * 3 * 4 + 96 * 2 * 2)  # bytes of one picture of 24 x 32


@pytest.fixture
def filled(camera_dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    monkeypatch.setenv("EBT_POLICY_CACHE", str(tmp_path / "cache"))
    assert entries() == []
    Windows.from_lerobot(*camera_dataset, **OPTIONS, image_cache_gb=0.0)
    Windows.from_lerobot(*camera_dataset, **OPTIONS, image_cache_gb=0.0, resize_shape=(12, 20))
    maps = Maps(FrozenBackbone("mobilenet_v2", pretrained=False), "mobilenet_v2", View(shift=2), variants=2)
    Windows.from_lerobot(*camera_dataset, **OPTIONS, maps=maps)
    return camera_dataset


def test_pictures_and_maps_are_listed_with_their_sizes(filled) -> None:
    found = {(e.what, e.size): (e.dataset, e.camera, len(e.files), e.bytes) for e in entries()}
    assert found == {
        ("pictures", "24x32"): ("tests/camera", CAMERA, 2, 12 * 3 * 24 * 32),
        ("pictures", "12x20"): ("tests/camera", CAMERA, 2, 12 * 3 * 12 * 20),
        ("maps of mobilenet_v2", "24x32"): ("tests/camera", CAMERA, 4, 2 * 12 * MAPS),
    }


def test_one_dataset_or_all_are_cleared(filled) -> None:
    with pytest.raises(UserError, match="nothing of dataset 'tests/other'. It has: tests/camera"):
        entries("tests/other")
    remove(entries("tests/camera"))
    assert entries() == [] and [path.name for path in cache_folder().iterdir()] == [".tests--camera.lock"]


def test_what_a_killed_training_left_is_counted_and_removed_and_that_of_a_running_one_is_not(filled) -> None:
    def of(size: str) -> tuple[int, int]:
        (entry,) = [e for e in entries() if (e.what, e.size) == ("pictures", size)]
        return len(entry.files), entry.bytes

    files, size = of("24x32")
    (folder,) = {path.parent for path in cache_folder().rglob("*@24x32/*.u8")}
    left = folder / "abc.tmp"
    left.write_bytes(bytes(1000))
    with frame_cache.making("tests/camera"):  # deletes it, too
        assert not left.exists()
        left.write_bytes(bytes(1000))
        assert of("24x32") == (files, size)
        remove(entries())
        assert left.exists()
    assert [(e.files, e.bytes) for e in entries()] == [((left,), 1000)]
    remove(entries())
    assert entries() == [] and not folder.exists()


def test_what_was_not_used_for_long_is_cleared_and_use_keeps(filled) -> None:
    for entry in entries():
        for file in entry.files:
            os.utime(file, times=(time.time() - 40 * 86_400,) * 2)
    assert {round(entry.days) for entry in entries()} == {40}
    Windows.from_lerobot(*filled, **OPTIONS, image_cache_gb=0.0)
    remove(entries(older_than_days=30))
    assert [(entry.what, entry.size) for entry in entries()] == [("pictures", "24x32")]
    assert entries(older_than_days=1) == []
