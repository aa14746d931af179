"""The bench file is checked before anything runs; an interrupted bench continues."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks import monitor_bench as bench
from ebt_policy.eval.benchmarks.monitor_bench import monitor_bench
from ebt_policy.eval.benchmarks.monitor_config import load_monitor_bench
from ebt_policy.eval.failures.calibrate import fit_and_score
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


@pytest.mark.slow
def test_a_small_bench_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pusht_keypoints: tuple[str, Path]
):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(pusht_keypoints[1].parents[1]))
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
