import logging
import statistics
import threading
import time

import numpy as np
import pytest
from timelines import decision

from ebt_policy.eval.report.live_viewer import LiveViewer

FRAME = np.zeros((48, 64, 3), np.uint8)


def test_a_stalled_viewer_costs_the_caller_nothing_and_drops_are_counted():
    begun, release = threading.Event(), threading.Event()
    shown = []

    def stall(decision, frame):
        shown.append(decision)
        begun.set()
        release.wait(30)

    viewer = LiveViewer(stall, capacity=16)
    viewer.log(decision(0), FRAME)
    assert begun.wait(30)
    took = []
    for i in range(1, 1001):
        begin = time.perf_counter()
        viewer.log(decision(i), FRAME)
        took.append(time.perf_counter() - begin)
    assert statistics.median(took) < 1e-3
    assert viewer.dropped == 1000 - 16
    begin = time.monotonic()
    viewer.close(timeout=0.2)
    assert time.monotonic() - begin < 10
    assert viewer.dropped == 1000  # those that waited will not be shown either
    release.set()
    assert [d.tick for d in shown] == [0]


def test_all_is_shown_in_order_before_close_returns_and_the_end_is_told():
    shown = []
    viewer = LiveViewer(
        lambda d, f: shown.append((d.tick, f)), capacity=8, at_end=lambda: shown.append("end")
    )
    for i in range(8):
        viewer.log(decision(i), FRAME)
    viewer.close(timeout=30)
    assert [s if s == "end" else s[0] for s in shown] == [*(decision(i).tick for i in range(8)), "end"]
    assert all(frame is FRAME for _, frame in shown[:-1]) and viewer.dropped == 0


def test_the_newest_wait_when_there_is_no_room():
    begun, release, shown = threading.Event(), threading.Event(), []

    def slow(decision, frame):
        begun.set()
        release.wait(30)
        shown.append(decision.tick)

    viewer = LiveViewer(slow, capacity=2)
    viewer.log(decision(0))
    assert begun.wait(30)
    for i in range(1, 6):
        viewer.log(decision(i))
    release.set()
    viewer.close(timeout=30)
    assert shown == [decision(i).tick for i in (0, 4, 5)] and viewer.dropped == 3


def test_a_viewer_that_raises_goes_on_and_complains_once(caplog: pytest.LogCaptureFixture):
    calls = []

    def broken(decision, frame):
        calls.append(decision.tick)
        raise ConnectionError("window closed")

    with caplog.at_level(logging.WARNING):
        viewer = LiveViewer(broken, at_end=lambda: 1 / 0)
        for i in range(5):
            viewer.log(decision(i))
        viewer.close(timeout=30)
    assert len(calls) == 5 == viewer.dropped
    assert [record.message for record in caplog.records] == [
        "The viewer failed and may show less from here on: window closed"
    ]


def test_what_comes_after_close_is_dropped():
    shown = []
    viewer = LiveViewer(lambda d, f: shown.append(d))
    viewer.close(timeout=30)
    viewer.close(timeout=30)
    viewer.log(decision(0))
    assert viewer.dropped == 1 and not shown


def test_events_are_shown_in_order_with_the_decisions():
    shown: list[str] = []
    viewer = LiveViewer(lambda made, frame: shown.append("decision"))
    viewer.log(decision(0))
    viewer.run(lambda: shown.append("asks"))
    viewer.log(decision(0))
    viewer.close()
    assert shown == ["decision", "asks", "decision"] and viewer.dropped == 0
