"""The gain of thinking is paired by seed, and its slope is over the strength of the disturbance."""

from pathlib import Path

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_config import load_suite
from ebt_policy.eval.benchmarks.thinking_law import law, main, slope, strength
from ebt_policy.eval.rollout.episodes import Episode, write_parquet

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "bench_thinking_law.yaml"


def bench_folder(folder: Path, solved: dict[str, tuple[int, int]], episodes: int = 40) -> Path:
    """solved: task -> how many of its episodes one and eight evaluations solve."""
    for task, counts in solved.items():
        for evaluations, count in zip((1, 8), counts, strict=True):
            file = folder / task / "rows" / f"ebt-{evaluations}-seed0.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            records = [
                Episode(100 + i, task, i < count, 0.5, 0.5, 9, None, 8, 0, evaluations, 0, 0.0, 0.0, [])
                for i in range(episodes)
            ]
            write_parquet(file, records, {})
    return folder


def test_the_shipped_bench_is_one_environment_at_several_strengths():
    strengths = [strength(one.env) for one in load_suite(SHIPPED).benches]
    assert strengths == sorted(set(strengths)) and strengths[0] == 0 and len(strengths) > 2


def test_a_gain_that_grows_with_the_strength_has_its_slope(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = bench_folder(tmp_path, {"pusht": (20, 20), "pusht+start": (20, 22), "pusht+start:2": (20, 24)})
    main([str(folder)])
    header, *rows, last = law(folder, "EBT-1", "EBT-8")
    assert header[3] == "gain" and [row[3] for row in rows] == ["0.0", "5.0", "10.0"]
    assert last[3] == "5.0" and float(last[4]) >= 0
    assert (folder / "thinking_law.csv").read_text().splitlines()[-1].startswith("slope,")
    assert "slope" in capsys.readouterr().out


def test_the_slope_of_noise_is_told_apart_from_nothing_by_its_interval():
    rng = np.random.default_rng(0)
    strengths = np.arange(4.0)
    gains = rng.choice([-1.0, 0.0, 1.0], (4, 2, 200))
    assert slope(strengths, gains).low < 0 < slope(strengths, gains).high
    growing = gains + strengths[:, None, None]
    assert slope(strengths, growing).low > 0.8


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(UserError, match="at most one disturbance"):
        strength("pusht+start+teleport")
    folder = bench_folder(tmp_path, {"pusht": (1, 1)})
    with pytest.raises(UserError, match="two strengths or more"):
        law(folder, "EBT-1", "EBT-8")
    bench_folder(tmp_path, {"pusht+start": (1, 1)})
    with pytest.raises(SystemExit):
        main([str(folder), "--longer", "EBT-16"])
    assert "no episodes of 'EBT-16'" in capsys.readouterr().err
