"""The event log writes in order, drops lines when it is full, and never blocks."""

import json
import threading
import time
from pathlib import Path

import pytest

from ebt_policy.hardware.safety import events
from ebt_policy.hardware.safety.events import EventLog
from ebt_policy.hardware.safety.filter import SafetyEvent


def test_events_are_written_in_order(tmp_path: Path):
    log = EventLog(tmp_path / "a" / "events.jsonl")
    for i in range(50):
        log(SafetyEvent(float(i), "kind", "detail"))
    assert log.close()
    times = [json.loads(line)["time"] for line in log.path.read_text().splitlines()]
    assert times == list(map(float, range(50)))


def test_a_stalled_disk_costs_events_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gate = threading.Event()

    def stalled(*where):
        gate.wait()
        return open(*where)

    monkeypatch.setattr(events, "open", stalled, raising=False)
    log = EventLog(tmp_path / "events.jsonl", capacity=10)
    spent = []
    for i in range(500):
        began = time.perf_counter()
        log({"i": i})
        spent.append(time.perf_counter() - began)
    assert sorted(spent)[250] < 1e-3 and log.dropped >= 488
    gate.set()
    log.close()
    assert log.path.read_text().startswith('{"wall"')


def test_a_full_disk_is_counted(tmp_path: Path):
    log = EventLog(tmp_path / "events.jsonl")
    log.path.mkdir()  # nothing can be written there
    log({"kind": "x"})
    assert not log.close() and log.failed == 1
