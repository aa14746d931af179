"""Camera streams return the newest picture without waiting, or name the camera that is stale, lost, frozen or not synchronous."""

import threading
import time

import numpy as np
import pytest
from fake_camera import FakeCamera, picture

from ebt_policy.errors import UserError
from ebt_policy.hardware.control.joint_history import JointHistory
from ebt_policy.hardware.sensing import camera_stream
from ebt_policy.hardware.sensing.streams import CameraStream, Snapshot, Stale, Streams


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def until(condition, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(camera_stream, "BACK_OFF_S", (0.001, 0.01))


@pytest.fixture
def started():
    """Makes running streams with fake cameras, and stops them."""
    made: list[CameraStream] = []

    def make(name="front", **options) -> tuple[CameraStream, FakeCamera, Clock]:
        clock = options.pop("clock", None) or Clock()
        camera = options.pop("camera", None) or FakeCamera()
        # Silence between two pictures of a test is no fault: only tests of faults set fewer retries.
        stream = CameraStream(name, camera, 0.2, clock, **({"retries": 10**6} | options))
        stream.start()
        made.append(stream)
        return stream, camera, clock

    yield make
    for stream in made:
        stream.camera.release.set()
        stream.stop()


def give(stream: CameraStream, image) -> None:
    before = stream.frames
    stream.camera.feed(image)
    until(lambda: stream.frames > before)


def test_the_latest_picture_wins(started):
    stream, camera, clock = started(latency_s=0.03)
    assert stream.latest() is None
    camera.feed(*(picture(i) for i in range(5)))
    until(lambda: stream.frames == 5)
    frame = stream.latest()
    assert (
        frame.sequence == 4 and frame.image[0, 0, 0] == 4 and frame.stamp == pytest.approx(clock.now - 0.03)
    )
    assert stream.latest() is frame


def test_a_blocked_read_blocks_nobody_and_stop_ends_in_time(started):
    events = []
    stream, camera, clock = started(on_event=events.append)
    give(stream, picture(1))
    camera.hangs = True
    assert camera.hung.wait(5)
    began = time.perf_counter()
    for _ in range(1000):
        assert stream.latest().sequence == 0
    assert time.perf_counter() - began < 0.5
    clock.now += 1.0
    found = Streams([stream], 0.1, clock).snapshot()
    assert isinstance(found, Stale) and found.age_s == pytest.approx(1.0)
    began = time.perf_counter()
    assert not stream.stop(timeout_s=0.1) and time.perf_counter() - began < 1.0
    assert events[-1].kind == "stuck" and camera.disconnections == 0
    camera.hangs = False
    camera.release.set()  # the read returns at last, and its thread clears up
    assert stream.stop() and camera.disconnections == 1


def test_failed_reads_then_recovery(started):
    events = []
    camera = FakeCamera()
    camera.feed(picture(1), *[RuntimeError("bus reset")] * 3)
    stream, _, clock = started(camera=camera, retries=3, on_event=events.append)
    until(lambda: stream.lost is not None)
    assert "3 reads failed in a row, the last with: bus reset" in stream.lost
    found = Streams([stream], 0.1, clock).snapshot()
    assert isinstance(found, Stale) and "lost" in found.reason and "bus reset" in str(found)
    until(lambda: camera.connections >= 3)  # connected anew, again and again
    camera.feed(picture(2))
    until(lambda: stream.lost is None)
    assert stream.latest().image[0, 0, 0] == 2 and stream.failed >= 3
    assert isinstance(Streams([stream], 0.1, clock).snapshot(), Snapshot)
    assert [event.kind for event in events][:2] == ["lost", "back"]


def test_few_failures_lose_nothing(started):
    camera = FakeCamera()
    camera.feed(RuntimeError("once"), picture(1))
    stream, _, _ = started(camera=camera, retries=2)
    until(lambda: stream.frames == 1)
    assert stream.failed == 1 and stream.latest().image[0, 0, 0] == 1


@pytest.mark.parametrize("bad", [picture(1).astype(np.float32), picture(1)[..., :1], picture(1)[..., 0]])
def test_what_is_no_picture_is_a_failed_read(started, bad):
    stream, camera, _ = started()
    camera.feed(bad)
    until(lambda: stream.failed)
    assert stream.latest() is None


def test_a_frozen_camera(started):
    events = []
    stream, _, clock = started(frozen_s=0.5, on_event=events.append)
    streams = Streams([stream], 0.1, clock)
    for _ in range(6):  # 0 to .5 s
        give(stream, picture(7))
        assert isinstance(streams.snapshot(), Snapshot)
        clock.now += 0.1
    give(stream, picture(7))
    found = streams.snapshot()
    assert isinstance(found, Stale) and "frozen" in found.reason and found.age_s == 0
    moved = picture(7)
    moved[3, 5, 1] = 8  # a pixel that the cheap check does not look at
    give(stream, moved)
    assert isinstance(streams.snapshot(), Snapshot)
    assert [event.kind for event in events] == ["frozen", "moving"]


def test_pictures_without_noise_may_stand_still(started):
    stream, _, clock = started(frozen_s=None)
    for _ in range(5):
        give(stream, picture(7))
        clock.now += 1.0
    assert not stream.frozen


def test_staleness_and_skew(started):
    clock = Clock()
    wrist, _, _ = started("wrist", clock=clock)
    front, _, _ = started("front", clock=clock, latency_s=0.02)
    streams = Streams([wrist, front], max_skew_s=0.05, clock=clock)
    assert streams.snapshot().reason == "no picture yet"
    give(wrist, picture(1))
    clock.now += 0.01
    give(front, picture(2))
    found = streams.snapshot()
    assert isinstance(found, Snapshot) and list(found.frames) == ["wrist", "front"]
    assert found.skew_s == pytest.approx(0.01) and found.oldest_age_s == pytest.approx(0.02)
    clock.now += 0.1
    give(front, picture(3))
    found = streams.snapshot()
    assert (found.stream, found.allowed_s) == (
        "wrist",
        0.05,
    ) and "0.090 s older than that of front" in found.reason
    clock.now += 0.1
    found = streams.snapshot()
    assert (found.stream, found.allowed_s) == ("wrist", 0.2) and found.age_s == pytest.approx(0.21)
    assert isinstance(
        streams.snapshot(now=100.05), Stale
    )  # a picture of the future is no reason to accept the skew


def test_all_start_or_none_and_stop_in_reverse_order():
    order = []

    class Watched(CameraStream):
        def stop(self, timeout_s: float = 6.0) -> bool:
            order.append(self.name)
            super().stop(timeout_s)
            if self.name == "b":
                raise RuntimeError("driver")
            return True

    cameras = [FakeCamera(), FakeCamera(), FakeCamera(connectable=False)]
    streams = [Watched(name, camera, 0.2) for name, camera in zip("abc", cameras, strict=True)]
    with pytest.raises(UserError, match="Camera c .* cannot be connected: no such device"):
        Streams(streams, 0.1).start()
    assert order == ["b", "a"] and [camera.is_connected for camera in cameras] == [False] * 3
    order.clear()
    with pytest.raises(KeyError), Streams(streams[:2], 0.1):
        raise KeyError("in the loop")
    assert order == ["b", "a"] and not any(camera.is_connected for camera in cameras)
    assert not [t for t in threading.enumerate() if t.name.startswith("camera-")]


def test_a_camera_that_the_robot_connected_stays_connected():
    camera = FakeCamera()
    camera.connect()
    stream = CameraStream("front", camera, 0.2)
    stream.start()
    assert stream.stop() and camera.is_connected and camera.connections == 1


def test_waiting_for_the_first_pictures(started):
    stream, camera, clock = started()
    with pytest.raises(UserError, match="Camera front: no picture yet"):
        Streams([stream], 0.1, clock).wait(0.05)
    camera.feed(picture(1))
    assert Streams([stream], 0.1, clock).wait().frames["front"].sequence == 0


def test_wrong_limits_are_refused():
    for options in (
        {"max_age_s": 0.0},
        {"max_age_s": 0.1, "retries": 0},
        {"max_age_s": 0.1, "frozen_s": 0.0},
    ):
        with pytest.raises(UserError, match="Camera x needs"):
            CameraStream("x", FakeCamera(), **options)
    with pytest.raises(UserError, match="name of its own"):
        Streams([CameraStream("x", FakeCamera(), 1.0)] * 2, 0.1)
    with pytest.raises(UserError, match="max_skew_s"):
        Streams([], 0.0)


def test_joints_between_two_measurements():
    history = JointHistory(period_s=0.1, capacity=4)
    with pytest.raises(LookupError, match="no joint positions"):
        history.at(0.0)
    for i in range(6):
        history.add(i * 0.1, [i, -2.0 * i])
    assert history.at(0.35) == pytest.approx([3.5, -7.0]) and history.at(0.3) == pytest.approx([3, -6])
    assert history.at(0.5) == pytest.approx([5, -10]) and history.at(0.55) == pytest.approx([5, -10])
    assert history.at(0.15) == pytest.approx([2, -4])  # the ring begins at .2
    for outside in (0.05, 0.65, float("nan")):
        with pytest.raises(LookupError, match=r"from 0\.200 to 0\.500 s"):
            history.at(outside)
    with pytest.raises(ValueError, match="came after"):
        history.add(0.5, [0, 0])


def test_joints_are_copied():
    history, row = JointHistory(0.1), np.zeros(2)
    history.add(0.0, row)
    row += 1
    history.at(0.0)[:] = 5
    assert history.at(0.0).tolist() == [0, 0]
