import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from timelines import frames, timeline

import ebt_policy.cli as cli
from ebt_policy.errors import UserError
from ebt_policy.eval.report.rerun_sink import RerunSink, send, trace
from ebt_policy.eval.rollout.timeline import write
from ebt_policy.eval.rollout.video import encode

VIDEO = encode(frames(), 10)


class FakeStream:
    """Keeps what is logged, by entity: [(tick, value)]."""

    made: ClassVar["list[FakeStream]"] = []

    def __init__(self, name: str) -> None:
        self.logged: dict[str, list[tuple[int, Any]]] = {}
        self.times: dict[str, Any] = {}
        self.done: list[str] = []
        self.made.append(self)

    def set_time(self, name: str, *, sequence: int | None = None, duration: float | None = None) -> None:
        self.times[name] = sequence if duration is None else duration

    def log(self, entity: str, value: Any, static: bool = False) -> None:
        if not static:
            assert self.times["time"] == pytest.approx(self.times["tick"] / 10)
            self.logged.setdefault(entity, []).append((self.times["tick"], value))

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.done.append(name)


@pytest.fixture
def stream_of(monkeypatch: pytest.MonkeyPatch) -> type[FakeStream]:
    """A stand-in for rerun that records all calls and accepts any blueprint."""
    rerun, blueprint = ModuleType("rerun"), ModuleType("rerun.blueprint")
    rerun.RecordingStream = FakeStream
    rerun.Scalars = lambda value: value
    rerun.EncodedImage = lambda contents, media_type: contents
    rerun.TextLog = lambda text, level: (level, text)
    rerun.SeriesPoints = lambda **_: None
    rerun.blueprint = blueprint
    blueprint.__getattr__ = lambda name: lambda *_, **__: None
    monkeypatch.setitem(sys.modules, "rerun", rerun)
    monkeypatch.setitem(sys.modules, "rerun.blueprint", blueprint)
    FakeStream.made.clear()
    return FakeStream


def test_everything_of_an_episode_is_logged_at_its_tick(stream_of, tmp_path):
    episode = timeline(peak=0.95)
    sink = RerunSink("name", episode.fps, tmp_path / "new" / "a.rrd")
    send(episode, VIDEO, sink)
    sink.close()
    (stream,) = stream_of.made
    logged = stream.logged
    assert [tick for tick, _ in logged["camera"]] == list(range(41))
    assert all(picture.startswith(b"\xff\xd8") for _, picture in logged["camera"])  # JPEG
    assert [v for tick, v in logged["energy/points"] if tick == 16] == list(episode.decisions[2].energy)
    assert logged["energy/last_plan"] == [
        (8, 0.75),
        (16, 1.0),
        (24, 1.25),
        (32, 1.5),
    ]  # none at the first decision
    assert logged["monitor/quantile"][3] == (24, 0.95) and logged["cost/evaluations"][0] == (0, 3)
    assert logged["task/coverage"][0] == (1, 0.0)
    assert logged["events"] == [
        (24, ("WARN", "alarm at quantile 0.950")),
        (20, ("WARN", "teleport begins")),
        (24, ("INFO", "teleport is over")),
        (40, ("INFO", "solved")),
    ]
    assert stream.done[0] == "save" and stream.done[-2:] == ["flush", "disconnect"]


def test_without_a_file_the_viewer_opens(stream_of, tmp_path):
    path = write(tmp_path, timeline())
    trace(path)
    assert stream_of.made[0].done[0] == "spawn"


def test_one_episode_at_a_time(stream_of, tmp_path):
    for seed in (1, 2):
        write(tmp_path, timeline(seed))
    with pytest.raises(UserError, match=r"holds 2 episodes.*pusht_keypoints_1.json"):
        trace(tmp_path)


def test_a_missing_rerun_is_named_with_its_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    path = write(tmp_path, timeline())
    monkeypatch.setattr(sys, "argv", ["ebt-policy", "trace", str(path), "--viewer", "rerun"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "lerobot_policy_ebt[viz]" in capsys.readouterr().err


def test_rerun_itself_writes_the_recording(tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk, the extra viz, is not installed")
    path: Path = write(tmp_path, timeline(), VIDEO)
    trace(path, tmp_path / "a.rrd")
    content = (tmp_path / "a.rrd").read_bytes()
    assert content.startswith(b"RRF2")
    for entity in (b"/camera", b"/energy/points", b"/monitor/quantile", b"/events"):
        assert entity in content
