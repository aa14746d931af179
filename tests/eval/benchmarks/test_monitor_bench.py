"""The bench file is checked before anything runs; an interrupted bench continues."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from lerobot.utils import constants

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks import monitor_bench as bench
from ebt_policy.eval.benchmarks.monitor_bench import monitor_bench
from ebt_policy.eval.benchmarks.monitor_config import DetectorRow, load_monitor_bench
from ebt_policy.eval.failures.calibrate import fit_and_score
from ebt_policy.eval.rollout.watched_episodes import WatchedEpisode
from ebt_policy.monitoring.calibration import conformal_rank

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "bench_monitor.yaml"
ENERGIES = SHIPPED.with_name("bench_monitor_energies.yaml")


@pytest.mark.parametrize("path", [SHIPPED, ENERGIES], ids=lambda path: path.stem)
def test_the_row_after_rewind_il_is_split_conformal_on_the_plain_overlap(path: Path):
    """It alarms where the largest disagreement so far exceeds a quantile of the calibration episodes' largest ones: the logarithm
    and the standardisation of the score change nothing."""
    row = next(row for row in load_monitor_bench(path).detectors if row.name.startswith("Rewind-IL"))
    rng = np.random.default_rng(0)
    episodes = [rng.lognormal(sigma=0.5, size=rng.integers(6, 30)) for _ in range(150)]
    # The first decision has no last chunk to disagree with.
    values = [[{}, *({"overlap": float(x)} for x in episode)] for episode in episodes]
    statistic, scores = fit_and_score(values[:100], row.signals, 40, 0.1, row.window)
    rank = conformal_rank(len(scores), 0.1) - 1
    raw = sorted(episode.max() for i, episode in enumerate(episodes[:100]) if i % 5)[rank]
    alarms = [statistic.running(one) > sorted(scores)[rank] for one in values[100:]]
    expected = [np.append(False, episode > raw) for episode in episodes[100:]]
    assert all((a == b).all() for a, b in zip(alarms, expected, strict=True))
    assert 0 < sum(alarm.any() for alarm in alarms) < len(alarms)


def test_the_shipped_file_is_valid():
    config = load_monitor_bench(SHIPPED)
    assert config.per_cell >= 200 and config.calibration_seed != config.seed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refrence": "x"}, "unknown key 'refrence'. Did you mean 'reference'"),
        ({"reference": "nobody"}, "none of the detectors"),
        ({"tasks": []}, "'tasks' is missing"),
        ({"detectors": [{"nme": "a"}]}, "unknown key 'nme'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict, message: str):
    data = yaml.safe_load(SHIPPED.read_text()) | change
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=message):
        load_monitor_bench(path)


def test_a_task_that_the_file_has_not_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="no task 'pusht_keypoint'. Did you mean 'pusht_keypoints'"):
        monitor_bench(SHIPPED, tmp_path, only=["pusht_keypoint"])


@pytest.mark.parametrize(("at_most", "undisturbed", "each"), [(25, 20, 10), (80, 80, 40), (5, 10, 10)])
def test_disturbances_share_their_seeds_and_at_most_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most: int, undisturbed: int, each: int
):
    """Whole rounds only: as many episodes as fit into at_most, or one round where even that does not fit."""
    config = load_monitor_bench(SHIPPED)
    task = replace(config.tasks[0], disturbances=("start", "friction:2"), at_most=at_most, round=10)
    ran: dict[str, list[int]] = {}

    def none_fails(task, folder, env, seeds, processes):
        ran.setdefault(env, []).extend(seeds)
        return bench._Part(tmp_path, [SimpleNamespace(success=True)] * len(seeds), {})

    monkeypatch.setattr(bench, "_episodes", none_fails)
    bench._test_episodes(config, task, tmp_path, processes=1)
    plain, *disturbed = ran.values()
    assert len(plain) == undisturbed and plain[0] == config.seed
    assert disturbed == [list(range(config.seed, config.seed + each))] * 2


def test_detectors_are_compared_on_the_same_bootstrap_samples(monkeypatch: pytest.MonkeyPatch):
    """A detector that orders episodes as the reference does differs from it by exactly nothing, in every figure."""
    monkeypatch.setattr(bench, "RESAMPLES", 20)
    rng = np.random.default_rng(0)

    def episode(success: bool) -> WatchedEpisode:
        overlap = rng.lognormal(sigma=0.5, size=20) * (1 if success else 1.3)
        signals = {"overlap": overlap, "energy": 10 * overlap, "time": np.arange(1.0, 21)}
        return WatchedEpisode("pusht", 0, success, 160, 8 * np.arange(20), signals, {}, np.zeros((20, 16, 2)))

    config = replace(load_monitor_bench(SHIPPED), alphas=(0.1,))
    calibration = [episode(True).rows() for _ in range(60)]
    test = [episode(i % 2 == 0) for i in range(80)]
    rows = [DetectorRow(name, (name,)) for name in ("overlap", "energy", "time")]
    reference, scaled, other = (
        bench._measure(config, row, calibration, test, [20] * 80, cost_ms=0) for row in rows
    )
    line = bench._compared(config, scaled, reference)
    assert [line.count(name) for name in ("AUROC", "balanced accuracy at 0.1", "TWA at 0.1")] == [1, 1, 1]
    assert line.count("+0.000 [+0.000, +0.000]") == 3, line
    assert "+0.000 [+0.000, +0.000]" not in bench._compared(config, other, reference)


@pytest.mark.slow
def test_a_small_bench_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pusht_keypoints: tuple[str, Path]
):
    home = pusht_keypoints[1].parents[1]
    monkeypatch.setenv("HF_LEROBOT_HOME", str(home))  # for the processes that the bench starts
    monkeypatch.setattr(constants, "HF_LEROBOT_HOME", home)  # LeRobot read the variable when it was imported
    data = yaml.safe_load(SHIPPED.read_text())
    data["tasks"] = [data["tasks"][0] | {"disturbances": ["start:2"], "round": 8}]
    path = tmp_path / "bench_small.yaml"
    path.write_text(
        yaml.safe_dump(data | {"calibration_episodes": 24, "per_cell": 1, "at_most": 64, "alphas": [0.1]})
    )
    page = monitor_bench(path, tmp_path / "out", processes=2)
    assert page.is_file() and "EBT score" in page.read_text()
    parts = {p: p.stat().st_mtime_ns for p in page.parent.glob("*.npz")}
    monkeypatch.setattr(bench, "watch_episodes", lambda *a, **k: pytest.fail("ran again"))
    monitor_bench(path, tmp_path / "out", processes=2)
    assert parts == {p: p.stat().st_mtime_ns for p in page.parent.glob("*.npz")}
