import io
import json
from dataclasses import replace
from types import SimpleNamespace

import av
import pytest
from timelines import decision, timeline

from ebt_policy.errors import UserError
from ebt_policy.eval.report.trace_page import disturbance
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.eval.rollout.timeline import keep_episodes, read, timeline_files, timeline_of, video_of, write
from ebt_policy.model.trace import StopReason


@pytest.mark.parametrize(
    "written",
    [
        timeline(),
        timeline(None, success=None, signal="", threshold=None, alpha=None, coverage=()),
        timeline(decisions=()),
        timeline(decisions=(decision(0, energy=(), residual_rms=(), recovery="hold"),)),
    ],
)
def test_what_is_written_is_read_again(written, tmp_path):
    path = write(tmp_path / "new", written)
    assert read(path) == written
    assert video_of(path, replace(written, video=path.name)) == path.read_bytes()


def test_numbers_that_json_does_not_have_become_none(tmp_path):
    nothing = decision(0, energy=(float("inf"), 1.0), score=float("nan"))
    path = write(tmp_path, timeline(decisions=(nothing,)))
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    (stored,) = read(path).decisions
    assert stored.energy == (None, 1.0) and stored.score is None


def test_names_are_safe_and_an_arms_episodes_do_not_overwrite_each_other(tmp_path):
    names = [
        write(tmp_path, timeline(env="a/b+push:1", seed=seed), b"video").stem for seed in (3, 3, None, None)
    ]
    assert names == ["a_b_push_1_3", "a_b_push_1_3", "a_b_push_1_0000", "a_b_push_1_0001"]
    assert read(tmp_path / "a_b_push_1_0001.json").video == "a_b_push_1_0001.webm"
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ticks": "many"}, "expected a whole number for 'ticks', found \"many\""),
        ({"fps": True}, "expected a number for 'fps', found true"),
        ({"fps": 0}, "expected fps above 0"),
        ({"coverage": 1}, "expected a list for 'coverage', found 1"),
        ({"decisions": [{"tick": 0}]}, r"expected the field 'decisions\[0\].seconds', found tick"),
        ({"video": "../../secret"}, "expected a video beside it, found '../../secret'"),
    ],
)
def test_a_bad_file_is_refused_with_what_was_expected_and_found(change, told, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(timeline().to_dict() | change))
    with pytest.raises(UserError, match=told) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "expected JSON"), ("[]", "expected an object, found \\[\\]"), ("{}", "'env', found none")],
)
def test_other_files_are_refused(text, told, tmp_path):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match=told):
        read(tmp_path / "other.json")
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "nothing.json")


def test_a_run_is_a_folder_or_one_file(tmp_path):
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError, match="eval --policy POLICY --record"):
            timeline_files(missing)
    path = write(tmp_path / "episodes", timeline())
    assert timeline_files(tmp_path) == timeline_files(tmp_path / "episodes") == timeline_files(path) == [path]


def test_the_energy_of_the_chunk_is_the_last_one():
    assert decision(0, energy=(3.0, 1.0, 2.0)).chunk_energy == 2.0
    assert decision(0, energy=(2.0, None)).chunk_energy == 2.0
    assert decision(0, energy=()).chunk_energy is None


def test_a_recorded_episode_keeps_its_decisions_and_every_frame(stub_runner, tmp_path):
    recorded, other = rollout(stub_runner, "pusht_keypoints", [5, 6], record=[5])
    (path,) = keep_episodes(tmp_path, [recorded, other], policy="stub", fps=10)
    kept = read(path)
    assert (kept.env, kept.seed, kept.policy, kept.ticks) == ("pusht_keypoints", 5, "stub", 300)
    assert [d.tick for d in kept.decisions] == list(range(0, 300, 8)) and len(kept.coverage) == 300
    assert max(kept.coverage) == recorded.max_coverage
    for made, trace in zip(kept.decisions, recorded.traces, strict=True):
        assert made.energy == tuple(trace.energy[0].tolist())
        assert StopReason[made.stop_reason] == trace.stop_reason[0] and made.seconds == trace.seconds
    with av.open(io.BytesIO(video_of(path, kept))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 301


def test_what_a_monitor_and_a_disturbance_add_is_kept(stub_runner):
    (episode,) = rollout(stub_runner, "pusht_keypoints", [5])
    episode.disturbance = {"kind": "push", "strength": 2.0, "begin": 30, "end": 35}
    n = len(episode.traces)
    made = timeline_of(
        episode,
        policy="stub",
        fps=10,
        signal="energy",
        threshold=0.5,
        alpha=0.05,
        scores=[float("nan"), *[0.1] * (n - 1)],
        quantiles=[1.0] * n,
        alarms=[True] * n,
        recovery=["hold"] * n,
    )
    assert (made.disturbance_kind, made.disturbance_begin, made.disturbance_end) == ("push", 30, 35)
    assert made.alarms == n and made.decisions[0].score is None and made.decisions[1].score == 0.1
    with pytest.raises(ValueError, match="shorter"):
        timeline_of(SimpleNamespace(**vars(episode)), policy="stub", fps=10, scores=[0.1])


def test_a_disturbance_never_lasts_longer_than_its_episode(tmp_path):
    # `start` is planned for all of 300 ticks; the episode was solved after 40.
    shown = timeline(disturbance_kind="start", disturbance_begin=0, disturbance_end=300)
    assert (shown.disturbance_begin, shown.disturbance_end) == (0, shown.ticks)
    assert disturbance(shown) == "start 1, from the reset on"
    cut = timeline(disturbance_begin=38, disturbance_end=50)
    assert disturbance(cut) == "teleport 1, ticks 38 to 39"
    old = tmp_path / "old.json"  # a file of an earlier version
    old.write_text(json.dumps(cut.to_dict() | {"disturbance_end": 300}))
    assert read(old).disturbance_end == 40


def test_a_disturbance_that_never_came_is_not_shown():
    solved_before = timeline(disturbance_begin=40, disturbance_end=50)
    assert disturbance(solved_before) == "" and solved_before.disturbance_begin is None
