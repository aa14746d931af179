import json
from functools import partial

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.report.report import LATENCY_NOTE
from ebt_policy.eval.rollout.episodes import read_parquet
from ebt_policy.eval.rollout.evaluate import evaluate
from ebt_policy.eval.rollout.latency import Latency, measure_latency
from ebt_policy.eval.rollout.parallel import prepare_workers, run_episodes
from ebt_policy.inference.runner import Runner, load_runner

STABLE = {
    "success_rate",
    "success_ci95",
    "mean_max_coverage",
    "mean_final_coverage",
    "evaluations_per_decision",
    "latency_ms",
    "episodes",
    "seed",
    "checkpoint_sha256",
    "versions",
}


@pytest.mark.slow
def test_results_are_the_same_for_every_number_of_processes(checkpoint):
    prepare_workers()
    run = partial(
        run_episodes,
        partial(load_runner, str(checkpoint("diffusion"))),
        "pusht_keypoints",
        range(7, 13),
        group_size=2,
        show_progress=False,
    )
    one, two = run(processes=1), run(processes=2)
    assert [e.seed for e in one] == [e.seed for e in two] == list(range(7, 13))
    assert [(e.max_coverage, e.final_coverage, e.ticks) for e in one] == [
        (e.max_coverage, e.final_coverage, e.ticks) for e in two
    ]


def test_the_json_has_the_promised_names_and_agrees_with_the_rows(checkpoint, tmp_path):
    path = tmp_path / "new" / "result.json"
    result = evaluate(
        checkpoint("ebt"),
        episodes=5,
        seed=100_000,
        max_evaluations=2,
        processes=1,
        group_size=3,
        json_path=path,
        parquet_path=tmp_path / "episodes.parquet",
        record=[100_000, 100_004],
        episodes_folder=tmp_path / "kept",
        show_progress=False,
    )
    assert sorted(path.stem for path in (tmp_path / "kept").glob("*.json")) == [
        "pusht_keypoints_100000",
        "pusht_keypoints_100004",
    ]
    saved = json.loads(path.read_text())
    assert saved.keys() >= STABLE
    assert saved["latency_ms"]["p50"] <= saved["latency_ms"]["p95"] and saved["latency_ms"]["threads"] == 1
    assert (saved["episodes"], saved["seed"]) == (5, 100_000)
    low, high = saved["success_ci95"]
    assert low <= saved["success_rate"] <= high
    assert saved["evaluations_per_decision"] <= 2
    assert (
        saved["mean_final_coverage"] <= saved["mean_max_coverage"] <= saved["mean_max_coverage_reward"] <= 1
    )
    assert saved["mean_max_coverage"] == pytest.approx(np.mean([e.max_coverage for e in result.rows]))
    assert [e.seed for e in result.rows] == list(range(100_000, 100_005))

    rows, metadata = read_parquet(tmp_path / "episodes.parquet")
    assert metadata == saved
    for row, episode in zip(rows, result.rows, strict=True):
        assert row.max_coverage == episode.max_coverage and row.decisions == len(row.traces)
        np.testing.assert_array_equal(row.traces[0].energy, episode.traces[0].energy)
    assert not list(tmp_path.rglob("*.tmp"))


def test_latency_is_that_of_the_policy_without_monitoring_also_where_it_is_watched(checkpoint, monkeypatch):
    from ebt_policy.eval.rollout import evaluate as module
    from ebt_policy.monitoring.calibration import calibrated
    from ebt_policy.monitoring.signals import Statistic

    measured = []
    monkeypatch.setattr(
        module,
        "measure_latency",
        lambda runner, *_, **__: measured.append(runner) or Latency(1, 1, 0, 1, 1, "cpu"),
    )
    runner = load_runner(checkpoint("ebt"))
    calibration = calibrated(
        range(20), alpha=0.1, statistic=Statistic(("overlap",), (0.0,), (1.0,)), horizon=40,
        checkpoint_sha256=runner.checkpoint_sha256, source="pusht_keypoints",
    )  # fmt: skip
    module.evaluate(checkpoint("ebt"), episodes=1, calibration=calibration, processes=1, show_progress=False)
    assert [type(one) for one in measured] == [Runner]
    assert "without monitoring" in LATENCY_NOTE


def test_latency_counts_warm_decisions_of_real_episodes(stub_runner):
    latency = measure_latency(stub_runner, "pusht_keypoints", decisions=40, warm_up=5)
    assert 0 < latency.p50 <= latency.p95 < 100
    assert latency.decisions >= 40 and latency.threads == 1 and latency.device == "cpu"
    hurried = measure_latency(stub_runner, "pusht_keypoints", decisions=10**6, warm_up=5, max_seconds=0)
    assert hurried.decisions == 38 - 5


def test_mistakes_are_reported_before_anything_runs(checkpoint, tmp_path):
    with pytest.raises(UserError, match="episodes is 0"):
        evaluate(checkpoint("ebt"), episodes=0)
    with pytest.raises(UserError, match="Unknown environment 'push'"):
        evaluate(checkpoint("ebt"), "push", episodes=1)
    with pytest.raises(UserError, match="does not give 'observation.environment_state'"):
        evaluate(checkpoint("ebt"), "pusht_pixels", episodes=1, show_progress=False)


def test_episodes_without_their_disturbance_are_counted(checkpoint):
    result = evaluate(
        checkpoint("ebt"),
        "pusht_keypoints+start:1",
        episodes=2,
        seed=7,
        max_evaluations=2,
        processes=1,
        latency=False,
        show_progress=False,
    )
    assert result.spared() is None
    result.rows[1].disturbance["acted"] = False
    assert "In 1 of 2 episodes the disturbance did not come" in result.spared()
