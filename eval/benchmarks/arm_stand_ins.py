"""Replacements for an arm and its cameras, to time the control loop: LeRobot's driver on an emulated servo bus in another
process, cameras that decode JPEG pictures at 30 Hz as USB cameras do, and untrained policies.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lerobot.cameras.camera import Camera
from lerobot.cameras.opencv import OpenCVCameraConfig
from lerobot.robots.robot import Robot

from ebt_policy.hardware.emulation.feetech_so101 import JOINTS, driver, in_the_middle

SIZE = (480, 640)


@contextlib.contextmanager
def emulated_so101(folder: Path, cameras: tuple[str, ...]) -> Iterator[Robot]:
    """LeRobot's SO-101 driver, calibrated but not connected. Emulated servos answer from another process, at real speed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    bus = context.Process(target=_servos, args=(theirs,), daemon=True)
    bus.start()
    try:
        robot: Any = driver(ours.recv(), folder)
        robot.cameras = {name: FilmCamera(i) for i, name in enumerate(cameras)}
        yield robot
    finally:
        ours.close()
        bus.join(5)
        bus.kill()


def _servos(pipe: Any) -> None:
    from ebt_policy.hardware.emulation.feetech_bus import EmulatedBus

    with contextlib.suppress(AttributeError, OSError):  # real servos do not share the CPU
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    with EmulatedBus(line_timing=True) as bus:
        in_the_middle(bus)
        pipe.send(bus.port)
        with contextlib.suppress(EOFError):
            pipe.recv()  # until the other side closes the pipe


class FilmCamera(Camera):
    """Repeats a few noisy JPEG pictures of 640x480 at 30 Hz."""

    def __init__(self, seed: int, fps: int = 30, pictures: int = 30) -> None:
        super().__init__(OpenCVCameraConfig(index_or_path=seed, fps=fps, width=SIZE[1], height=SIZE[0]))
        noise, (rows, columns) = np.random.default_rng(seed), np.indices(SIZE)
        self._film = []
        for i in range(pictures):
            picture = np.stack([rows / 2, columns / 3, (rows + columns + 8 * i) % 255], -1)
            picture = np.clip(picture + noise.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
            self._film.append(cv2.imencode(".jpg", picture)[1])
        self._connected, self._shown, self._due = False, 0, 0.0

    @property
    def is_connected(self) -> bool:
        return self._connected

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        return []

    def connect(self, warmup: bool = True) -> None:
        self._connected, self._due = True, time.monotonic()

    def read(self) -> Any:
        return self.async_read()

    def async_read(self, timeout_ms: float = 200) -> Any:
        """Wait until the next picture is due, and decode it."""
        self._due = max(self._due + 1 / (self.fps or 30), time.monotonic() - 1.0)
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._shown += 1
        picture = cv2.imdecode(self._film[self._shown % len(self._film)], cv2.IMREAD_COLOR)
        assert picture is not None  # encoded in __init__
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def disconnect(self) -> None:
        self._connected = False


def untrained(folder: Path, cameras: tuple[str, ...], **options: Any) -> Path:
    """Save an EBT policy of the default size with random weights for the emulated arm; it takes as long as a trained one."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    import ebt_policy.registration  # noqa: F401

    pictures = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *SIZE)) for name in cameras
    }
    config = make_policy_config(
        "ebt",
        device="cpu",
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (len(JOINTS),)), **pictures},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (len(JOINTS),))},
        **options,
    )
    half = torch.tensor([20.0] * (len(JOINTS) - 1) + [10.0])
    stats: dict[str, dict[str, Any]] = {
        name: {"min": -half, "max": half} for name in ("observation.state", "action")
    }
    stats |= {
        name: {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)} for name in pictures
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = get_policy_class("ebt")(config)
    for part in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
        part.save_pretrained(folder)
    return folder
