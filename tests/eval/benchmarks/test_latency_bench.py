"""The bench of latency: one cell for each row and latency, kept; mistakes in its file are named."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks import latency_bench as module
from ebt_policy.eval.benchmarks.latency_bench import figures, latency_bench
from ebt_policy.eval.benchmarks.latency_config import read_latency_bench

SHIPPED = Path(__file__).parents[3] / "configs" / "bench_latency.yaml"
ROWS = [
    {"name": "Switch", "handover": "switch"},
    {"name": "RTC", "handover": "fix", "pull": "linear"},
]


def write(folder: Path, policy: Path | str = "p", **changes) -> Path:
    task = {"env": "pusht_keypoints", "policy": str(policy)}
    data = {"kind": "latency", "latencies_ms": [0, 200], "episodes": 1, "tasks": [task], "rows": ROWS}
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(data | changes))
    return path


def test_cells_are_measured_once_and_the_report_compares_them(
    checkpoint: Callable, tmp_path: Path, monkeypatch
):
    config, asked = write(tmp_path, checkpoint("ebt")), []
    run = module.delayed_rollout

    def counted(runner, env, seeds, latency, handover, hold):
        asked.append((latency, handover.pull))
        return run(runner, env, seeds, latency, handover, hold)

    monkeypatch.setattr(module, "delayed_rollout", counted)
    report = latency_bench(config, tmp_path / "out")
    assert asked == [(0, None), (2, None), (2, "linear")]  # without latency the rows are the same
    assert report.count("| 200 |") == 2 and "Switch" in report and "RTC" in report
    assert latency_bench(config, tmp_path / "out") == report and len(asked) == 3


def test_jerk_at_borders_is_over_that_inside():
    cell = [{"success": True, "border": [6.0, 3], "inside": [10.0, 10]}] * 4
    found = figures(cell)
    assert found["jerk_ratio"] == 2.0 and found["jerk_ratio_ci95"] == (2.0, 2.0)
    assert found["success"] == 1.0 and found["episodes"] == 4
    assert found["jerk"] == pytest.approx(16 / 13) and found["jerk_ci95"] == pytest.approx((16 / 13, 16 / 13))


def test_where_every_tick_is_a_border_there_is_jerk_and_no_ratio():
    """Ensembling with a policy that takes no time."""
    found = figures([{"success": True, "border": [6.0, 3], "inside": [0.0, 0]}] * 4)
    assert (
        found["jerk"] == 2.0 and math.isnan(found["jerk_ratio"]) and math.isnan(found["jerk_ratio_ci95"][0])
    )


def test_the_shipped_file_is_read():
    bench = read_latency_bench(SHIPPED)
    assert set(bench.latencies_ms) == {0, 100, 200, 400} and len(bench.rows) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [{"name": "x", "handover": "swich"}]}, "handover is 'swich'.*switch"),
        ({"rows": []}, "expected 'tasks' and 'rows'"),
        ({"latency": 3}, "unknown key 'latency'"),
        ({"tasks": [{"env": "e", "policy": "p", "hold": "x"}]}, "hold is 'x'; expected last or env"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        latency_bench(write(tmp_path, **changes), tmp_path / "out")


def test_a_latency_between_ticks_and_an_unknown_row_are_named(checkpoint: Callable, tmp_path: Path):
    config = write(tmp_path, checkpoint("ebt"), latencies_ms=[250])
    with pytest.raises(UserError, match="no whole number of ticks at the 10 Hz"):
        latency_bench(config, tmp_path / "out")
    with pytest.raises(UserError, match="has no row 'RCT'.*RTC"):
        latency_bench(config, tmp_path / "out", rows=["RCT"])
