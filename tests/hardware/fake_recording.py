"""Faulty episode writers, which the recorder's process can import from here, and small episodes."""

import errno
import time

import numpy as np

from ebt_policy.hardware.recording.episode_writer import DatasetSpec

FPS = 20
VIDEO = "observation.images.front"


def spec(root, video=True, **changes) -> DatasetSpec:
    vector = {"dtype": "float32", "shape": (3,), "names": ["a.pos", "b.pos", "c.pos"]}
    features = {"observation.state": vector, "action": vector}
    if video:
        features[VIDEO] = {"dtype": "video", "shape": (32, 48, 3), "names": ["height", "width", "channels"]}
    return DatasetSpec(**{"root": root, "repo_id": "local/arm", "fps": FPS, "features": features} | changes)


def frame(tick: int, video=True) -> dict:
    made = {
        "observation.state": np.full(3, tick, np.float32),
        "action": np.full(3, tick + 0.5, np.float32),
    }
    return made | ({VIDEO: np.full((32, 48, 3), tick * 8 % 256, np.uint8)} if video else {})


class Stalled:
    """A disk that takes a second for each frame."""

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec

    def add(self, *arguments) -> None:
        time.sleep(1.0)

    def note(self, line) -> None: ...

    def save(self, success, missing=0):
        return 0

    def discard(self) -> None: ...

    def close(self) -> None: ...


class Full(Stalled):
    """A disk that is full at the third frame."""

    frames = 0

    def add(self, *arguments) -> None:
        self.frames += 1
        if self.frames == 3:
            raise OSError(errno.ENOSPC, "No space left on device")


class Dying(Stalled):
    """A process that the system kills at the first frame."""

    def add(self, *arguments) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
