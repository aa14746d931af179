"""The bench file is checked before anything runs; an interrupted bench continues."""

from pathlib import Path

import pytest
import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.monitor_bench import monitor_bench
from ebt_policy.eval.benchmarks.monitor_config import load_monitor_bench

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "bench_monitor.yaml"


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


@pytest.mark.slow
def test_a_small_bench_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pusht_keypoints: tuple[str, Path]
):
    from ebt_policy.eval.benchmarks import monitor_bench as module

    monkeypatch.setenv("HF_LEROBOT_HOME", str(pusht_keypoints[1].parents[1]))
    monkeypatch.setattr(module, "PART", 8)
    data = yaml.safe_load(SHIPPED.read_text())
    data["tasks"] = [data["tasks"][0] | {"disturbances": ["start:2"]}]
    path = tmp_path / "bench_small.yaml"
    path.write_text(
        yaml.safe_dump(data | {"calibration_episodes": 24, "per_cell": 1, "at_most": 64, "alphas": [0.1]})
    )
    page = module.monitor_bench(path, tmp_path / "out", processes=2)
    assert page.is_file() and "EBT score" in page.read_text()
    parts = {p: p.stat().st_mtime_ns for p in page.parent.glob("*.npz")}
    monkeypatch.setattr(module, "watch_episodes", lambda *a, **k: pytest.fail("ran again"))
    module.monitor_bench(path, tmp_path / "out", processes=2)
    assert parts == {p: p.stat().st_mtime_ns for p in page.parent.glob("*.npz")}
