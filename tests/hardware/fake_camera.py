"""A camera that returns the pictures that a test gives it."""

import queue
import threading

import numpy as np
from lerobot.cameras.camera import Camera
from lerobot.cameras.opencv.configuration_opencv import OpenCVCameraConfig


def picture(value: int) -> np.ndarray:
    return np.full((16, 24, 3), value, np.uint8)


class FakeCamera(Camera):
    """`feed` a picture or an exception; `hang` makes the next read wait until `release`."""

    def __init__(self, connectable: bool = True) -> None:
        super().__init__(OpenCVCameraConfig(index_or_path=0))
        self.waiting: queue.Queue = queue.Queue()
        self.connections = self.disconnections = 0
        self.connectable, self._connected = connectable, False
        self.hung, self.release = threading.Event(), threading.Event()
        self.hangs = False

    def feed(self, *items) -> None:
        for item in items:
            self.waiting.put(item)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @staticmethod
    def find_cameras() -> list:
        return []

    def connect(self, warmup: bool = True) -> None:
        self.connections += 1
        if not self.connectable:
            raise ConnectionError("no such device")
        self._connected = True

    def read(self):
        return self.async_read(1e4)

    def async_read(self, timeout_ms: float = 200):
        if self.hangs:
            self.hung.set()
            self.release.wait(20)
        try:
            item = self.waiting.get(timeout=min(timeout_ms / 1000, 0.05))
        except queue.Empty:
            raise TimeoutError("no picture") from None
        if isinstance(item, Exception):
            raise item
        return item

    def disconnect(self) -> None:
        self.disconnections += 1
        self._connected = False
