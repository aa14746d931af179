"""Streams with LeRobot's own cameras: OpenCV on a video file, RealSense on a recording of librealsense."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig

from ebt_policy.errors import UserError
from ebt_policy.hardware.sensing import camera_stream
from ebt_policy.hardware.sensing.streams import CameraStream, Streams


def until(condition, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.005)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """5000 red pictures that grow brighter: LeRobot reads hundreds before `connect` returns."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for i in range(5000):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[..., 2] = 50 + i // 30  # blue, green, red
        writer.write(picture)
    writer.release()
    return path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_video_file_plays_ends_and_plays_again(film: Path, monkeypatch: pytest.MonkeyPatch):
    """LeRobot takes a file only without a size, and reads it as fast as it can. At its end LeRobot's thread dies; connecting
    anew starts the film again.
    """
    monkeypatch.setattr(camera_stream, "BACK_OFF_S", (0.01, 0.05))
    events = []
    camera = OpenCVCamera(OpenCVCameraConfig(index_or_path=film, warmup_s=0))
    stream = CameraStream("film", camera, 5.0, frozen_s=None, retries=2, on_event=events.append)
    with Streams([stream], 1.0) as streams:
        snapshot = streams.wait(30)
        frame = snapshot.frames["film"]
        assert (
            frame.image.shape == (48, 64, 3) and frame.image[..., 0].mean() > 40 > frame.image[..., 1:].mean()
        )
        until(lambda: [event.kind for event in events][:2] == ["lost", "back"])
        assert abs(time.monotonic() - stream.latest().stamp) < 5
    assert not camera.is_connected


def test_the_stamp_is_lerobots(film: Path):
    """A thread that wakes up late does not make its picture younger."""
    camera = OpenCVCamera(OpenCVCameraConfig(index_or_path=film, warmup_s=0))
    stream = CameraStream("film", camera, 5.0)
    picture = np.zeros((4, 4, 3), np.uint8)
    camera.latest_frame, camera.latest_timestamp = picture, time.perf_counter() - 0.5
    assert time.monotonic() - stream._captured(picture) == pytest.approx(0.5, abs=0.1)
    assert time.monotonic() - stream._captured(picture.copy()) == pytest.approx(
        0.0, abs=0.1
    )  # replaced already


def test_a_file_that_is_not_there():
    camera = OpenCVCamera(OpenCVCameraConfig(index_or_path=Path("/nowhere/film.avi")))
    with pytest.raises(UserError, match="Camera front .* cannot be connected"):
        CameraStream("front", camera, 1.0).start()


SERIAL = "123456789012"


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Two seconds of a camera in librealsense's own format, recorded from its software device."""
    rs = pytest.importorskip("pyrealsense2")
    device = rs.software_device()
    for key, value in {
        "serial_number": SERIAL,
        "name": "Intel RealSense D435",
        "product_line": "D400",
        "product_id": "0B07",
        "firmware_version": "5.16",
        "usb_type_descriptor": "3.2",
        "physical_port": "0",
    }.items():
        device.register_info(getattr(rs.camera_info, key), value)
    sensor = device.add_sensor("RGB Camera")
    stream, lens = rs.video_stream(), rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = 64, 48, 50.0, 50.0, 32.0, 24.0
    lens.model, lens.coeffs = rs.distortion.none, [0.0] * 5
    stream.type, stream.uid, stream.width, stream.height = rs.stream.color, 0, 64, 48
    stream.bpp, stream.fmt, stream.fps, stream.intrinsics = 3, rs.format.rgb8, 30, lens
    profile = sensor.add_video_stream(stream, True)
    recorder = rs.recorder(str(tmp_path / "camera.bag"), device)
    recorded = recorder.query_sensors()[0]
    recorded.open(profile)
    recorded.start(lambda frame: None)
    for i in range(60):
        frame = rs.software_video_frame()
        frame.stride, frame.bpp, frame.frame_number, frame.timestamp = 64 * 3, 3, i, i * 1000 / 30
        frame.domain, frame.profile = rs.timestamp_domain.hardware_clock, profile.as_video_stream_profile()
        frame.pixels = np.full((48, 64, 3), (10 + i, 90, 200), np.uint8)
        sensor.on_video_frame(frame)
        time.sleep(0.005)
    recorded.stop()
    recorded.close()
    del recorded, recorder  # closes the file
    return tmp_path / "camera.bag"


def test_realsense(bag: Path, monkeypatch: pytest.MonkeyPatch):
    """LeRobot's class and librealsense as they are, but for the device: a serial number opens the recording. librealsense
    gives its pipelines real devices and recordings only, never a software device.
    """
    import pyrealsense2 as rs
    from lerobot.cameras.realsense import RealSenseCamera, RealSenseCameraConfig

    class Recorded(rs.config):
        def enable_device(self, serial: str) -> None:
            assert serial == SERIAL
            self.enable_device_from_file(str(bag))  # again from the start at its end

    monkeypatch.setattr(rs, "config", Recorded)
    camera = RealSenseCamera(RealSenseCameraConfig(SERIAL, fps=30, width=64, height=48))
    stream = CameraStream("wrist", camera, 1.0)
    with Streams([stream], 1.0) as streams:
        streams.wait(30)
        held = []  # librealsense lends a bounded number of buffers: whoever keeps pictures must keep copies
        for _ in range(40):
            before = stream.latest().sequence
            until(lambda before=before: stream.latest().sequence > before)
            held.append(stream.latest())
        assert all(
            frame.image.flags.owndata and frame.image[0, 0].tolist()[1:] == [90, 200] for frame in held
        )
        assert len({int(frame.image[0, 0, 0]) for frame in held}) > 5 and stream.lost is None
    assert not camera.is_connected
