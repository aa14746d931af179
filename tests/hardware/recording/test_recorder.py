"""The recorder never blocks the loop, reports dropped frames, and keeps finished episodes after a full disk or a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_recording import FPS, VIDEO, Dying, Full, Stalled, frame, spec
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.errors import UserError
from ebt_policy.hardware.recording.episode_writer import EpisodeWriter
from ebt_policy.hardware.recording.recorder import Recorder, RecorderState

HERE = Path(__file__).parents[1]  # where the helper modules of these tests are


def records(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "meta/recording.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_episodes_with_video_lines_and_drops(tmp_path: Path):
    events = []
    root = tmp_path / "d"
    with Recorder(spec(root), on_event=events.append) as recorder:
        for length, success in ((6, True), (4, False)):
            for tick in range(length):
                assert recorder.add(frame(tick), "put it there", 50 + tick / FPS)
            assert recorder.note({"kind": "decision", "energy": np.array([2.0, 1.0])}, stamp=50.1)
            recorder.end_episode(success)
        recorder.add(frame(0), "forget it", 60.0)
        recorder.discard_episode()
        assert recorder.flush() and recorder.saved == 2
        for tick in range(2000):  # faster than anything can be written
            recorder.add(frame(tick), "put it there")
        dropped = recorder.dropped
        recorder.end_episode()
    assert recorder.saved == 3 and recorder.state is RecorderState.CLOSED and recorder.close()
    data = LeRobotDataset("local/arm", root=root)
    assert data.fps == FPS and list(data.meta.episodes["length"]) == [6, 4, 2000 - dropped]
    assert dropped > 0 and records(root)[2]["dropped"] == dropped == sum(
        n for _, n in records(root)[2]["gaps"]
    )
    assert data.meta.names["observation.state"] == ["a.pos", "b.pos", "c.pos"]
    assert data[8]["action"].tolist() == [2.5] * 3 and abs(float(data[8][VIDEO].mean()) * 255 - 16) < 4
    assert [(r["success"], r["dropped"], r["ended"]) for r in records(root)[:2]] == [
        (True, 0, 50.25),
        (False, 0, 50.15),
    ]
    lines = [json.loads(s) for s in (root / "logs/episode_000001.jsonl").read_text().splitlines()]
    assert lines[-1] == {"time": 50.1, "kind": "decision", "energy": [2.0, 1.0]}
    assert [event.kind for event in events if event.kind != "dropping"] == [
        "ready",
        "saved",
        "saved",
        "discarded",
        "saved",
    ]


def test_a_stalled_disk_costs_frames_and_no_time(tmp_path: Path):
    events = []
    recorder = Recorder(spec(tmp_path / "d"), capacity=8, on_event=events.append, open_writer=Stalled)
    recorder.ready()
    picture = {VIDEO: np.zeros((480, 640, 3), np.uint8)}
    spent, taken = [], 0
    for tick in range(200):
        began = time.perf_counter()
        taken += recorder.add(frame(tick) | picture, "t")
        spent.append(time.perf_counter() - began)
    assert np.quantile(spent, 0.95) < 1e-3
    assert taken < 20 and recorder.dropped == 200 - taken
    # The feeder may take one more in hand at any moment, and leave room for as many lines.
    refused = sum(not recorder.note({"kind": "decision"}) for _ in range(20))
    assert 0 < refused == recorder.lines_dropped
    began = time.perf_counter()
    recorder.end_episode(True)  # is never dropped
    recorder.discard_episode()
    assert time.perf_counter() - began < 0.1
    assert "dropping" in [event.kind for event in events]
    assert not recorder.close(timeout_s=0.2) and time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("writer", "said"),
    [(Full, "The disk under .* is full"), pytest.param(Dying, "ended by itself", marks=pytest.mark.slow)],
)
def test_a_fault_ends_recording_and_not_the_loop(tmp_path: Path, writer, said: str):
    events = []
    recorder = Recorder(spec(tmp_path / "d"), on_event=events.append, open_writer=writer)
    recorder.ready()
    for tick in range(10):
        recorder.add(frame(tick), "t")
    deadline = time.monotonic() + 60
    while recorder.state is not RecorderState.FAILED:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(UserError, match=said):
        recorder.ready()
    assert not recorder.add(frame(0), "t") and not recorder.note({})
    recorder.end_episode(True)
    assert not recorder.flush() and not recorder.close() and recorder.state is RecorderState.FAILED
    assert [event.kind for event in events] == ["ready", "failed"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_ends_a_session_does_not_end_the_recorder_before_it(tmp_path: Path, name: str, monkeypatch):
    """A terminal that closes, and a service that stops, tell the whole group. Of two threads that wait for a process at once, one
    may take it for alive when it has ended: they wait in turn."""
    events: list[Any] = []
    recorder = Recorder(spec(tmp_path / "d", video=False), on_event=events.append)
    join, waiting, at_once = recorder._process.join, threading.Lock(), []

    def watched(timeout: float | None = None) -> None:
        if not waiting.acquire(blocking=False):
            at_once.append(timeout)
            return
        join(timeout)
        time.sleep(0.1)  # long enough for the other one to come
        waiting.release()

    monkeypatch.setattr(recorder._process, "join", watched)
    recorder.ready()
    for tick in range(4):
        recorder.add(frame(tick, video=False), "t")
    os.kill(recorder._process.pid, getattr(signal, name))
    time.sleep(0.1)
    recorder.end_episode(None)
    assert recorder.close() and recorder.saved == 1, (events, recorder._process.exitcode)
    assert at_once == []


INTERRUPTED = f"""
import sys; sys.path.insert(0, {str(HERE)!r}); sys.argv[0] = "ebt-policy"
if __name__ == "__main__":
    import os, signal, threading
    from fake_recording import frame, spec
    from ebt_policy.hardware.recording.recorder import Recorder
    recorder = Recorder(spec(sys.argv[1], video=False))
    recorder.ready()
    for tick in range(6):
        recorder.add(frame(tick, video=False), "t")
    pid = recorder._process.pid
    os.kill(pid, signal.SIGSTOP)  # a save that takes long
    recorder.end_episode(True)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        recorder.close()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    os.kill(pid, signal.SIGCONT)
"""


@pytest.mark.slow
def test_a_ctrl_c_while_it_closes_neither_loses_the_episode_nor_hangs(tmp_path: Path):
    root = tmp_path / "d"
    (tmp_path / "run.py").write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, tmp_path / "run.py", root], capture_output=True, text=True, timeout=120
    )
    assert "interrupted" in done.stdout, done.stderr[-2000:]
    assert [record["success"] for record in records(root)] == [True]


@pytest.mark.slow
def test_files_that_may_not_grow(tmp_path: Path):
    """A real refusal by the system, in the middle of a save: the earlier episode stays whole."""
    root = tmp_path / "d"
    script = f"""
import sys; sys.path.insert(0, {str(HERE)!r}); sys.argv[0] = "ebt-policy"
if __name__ == "__main__":
    import resource
    import numpy as np
    from fake_recording import frame, spec
    from ebt_policy.hardware.recording.recorder import Recorder
    # Inherited by the recorder's process. Python ignores the signal, so that writing raises instead.
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
    noise = np.random.default_rng(0)
    with Recorder(spec({str(root)!r})) as recorder:
        for length in (5, 400):
            for tick in range(length):
                picture = noise.integers(0, 256, (32, 48, 3), dtype=np.uint8)
                while not recorder.add(frame(tick) | {{{VIDEO!r}: picture}}, "t"):
                    if recorder.reason: break
            recorder.end_episode()
            recorder.flush()
        print(recorder.saved, recorder.state, recorder.reason)
"""
    (tmp_path / "run.py").write_text(script)
    done = subprocess.run([sys.executable, tmp_path / "run.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("1 failed") and "Finished episodes are safe" in done.stdout, done.stdout
    assert LeRobotDataset("local/arm", root=root).num_frames == 5


SECOND_EPISODE = f"""
import sys, time; sys.path.insert(0, {str(HERE)!r}); sys.argv[0] = "ebt-policy"
if __name__ == "__main__":
    from fake_recording import frame, spec
    from ebt_policy.hardware.recording.recorder import Recorder
    recorder = Recorder(spec(sys.argv[1]))
    recorder.ready()
    for tick in range(6):
        recorder.add(frame(tick), "t")
    recorder.end_episode(True)
    recorder.flush()
    for tick in range(10**6):
        recorder.add(frame(tick), "t")
        if tick == 20:
            print("second", recorder._process.pid, flush=True)
        time.sleep(0.01)
"""


def alive(pid: int) -> bool:
    try:
        # Without anybody to collect it, a process that ended stays as a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    "victims", ["both", *(pytest.param(who, marks=pytest.mark.slow) for who in ("parent", "ctrl-c"))]
)
def test_killed_in_the_second_episode(tmp_path: Path, victims: str):
    (tmp_path / "run.py").write_text(SECOND_EPISODE)
    root = tmp_path / "d"
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", root], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    said, child = process.stdout.readline().split()
    assert said == "second"
    if victims == "both":
        os.killpg(process.pid, signal.SIGKILL)
    elif victims == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    process.wait(60)
    data = LeRobotDataset("local/arm", root=root)  # at once, before anything clears up
    assert data.num_episodes == 1 and len(data) == 6
    assert abs(float(data[5][VIDEO].mean()) * 255 - 40) < 4
    writer = EpisodeWriter(spec(root))  # waits for the orphan, if it is still there
    for tick in range(4):
        writer.add(frame(tick), "t", float(tick))
    writer.save(None)
    writer.close()
    assert list(LeRobotDataset("local/arm", root=root).meta.episodes["length"]) == [6, 4]
    deadline = time.monotonic() + 60
    while alive(int(child)):
        assert time.monotonic() < deadline, "the orphan goes on"
        time.sleep(0.05)
    assert not (tmp_path / "d.staging").exists()


@pytest.mark.slow
def test_a_dataset_of_another_kind_is_told_before_anything_moves(tmp_path: Path):
    (tmp_path / "d").mkdir()
    recorder = Recorder(spec(tmp_path / "d"))
    with pytest.raises(UserError, match="holds no LeRobot dataset"):
        recorder.ready()
    assert not recorder.close()
