"""Datasets with a camera."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CAMERA = "observation.images.top"


@pytest.fixture(scope="session")
def make_camera_dataset() -> Callable[[Path, str, int], tuple[str, Path]]:
    """make(root, "image" or "video", seed): two episodes of 5 and 7 frames with noise pictures, 24 x 32."""

    def make(root: Path, kind: str, seed: int = 0) -> tuple[str, Path]:
        point = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
        picture = {"dtype": kind, "shape": (24, 32, 3), "names": ["height", "width", "channels"]}
        dataset = LeRobotDataset.create(
            "tests/camera",
            fps=10,
            root=root,
            features={CAMERA: picture, "observation.state": point, "action": point},
            use_videos=kind == "video",
        )
        rng = np.random.default_rng(seed)
        for length in (5, 7):
            for _ in range(length):
                dataset.add_frame(
                    {
                        CAMERA: rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
                        "observation.state": rng.normal(size=2).astype(np.float32),
                        "action": rng.normal(size=2).astype(np.float32),
                        "task": "look",
                    }
                )
            dataset.save_episode()
        dataset.finalize()
        return "tests/camera", root

    return make


@pytest.fixture(scope="session", params=["image", "video"])
def camera_dataset(request, make_camera_dataset, tmp_path_factory) -> tuple[str, Path]:
    return make_camera_dataset(tmp_path_factory.mktemp("cameras") / request.param, request.param, 0)
