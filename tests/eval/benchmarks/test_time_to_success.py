"""When a learning curve first reaches another policy's final success."""

import numpy as np
import pytest

from ebt_policy.eval.benchmarks.time_to_success import minutes_until, time_table
from ebt_policy.eval.benchmarks.training_cost import LearningPoint, TrainedRow
from ebt_policy.eval.report.report import Result
from ebt_policy.eval.rollout.episodes import Episode


def result(name: str, solved: int, n: int = 100, trainings: int = 2) -> Result:
    def episode(seed: int) -> Episode:
        return Episode(
            seed=seed,
            env="pusht_keypoints",
            success=seed < solved,
            max_coverage=0.5,
            final_coverage=0.5,
            ticks=8,
            ticks_to_success=None,
            n_action_steps=8,
            decisions=1,
            evaluations_per_decision=2.0,
            inner_steps=2.0,
            final_energy_mean=float("nan"),
            final_energy_max=float("nan"),
            traces=[],
        )

    return Result(name, name, {k: [episode(seed) for seed in range(n)] for k in range(trainings)})


def curve(*points: tuple[float, int]) -> list[LearningPoint]:
    return [LearningPoint(1, 60 * minutes, result("EBT-2", solved)) for minutes, solved in points]


def test_the_line_between_checkpoints_is_read_where_it_first_crosses() -> None:
    goal = result("DDPM-100", 80)
    found = minutes_until(curve((10, 60), (20, 100), (30, 70)), goal)
    assert found.estimate == pytest.approx(15)
    assert 10 < found.low < 15 < found.high <= 20
    assert minutes_until(curve((10, 80)), goal).estimate == pytest.approx(10)
    assert minutes_until(curve((10, 40)), result("DDPM-100", 20)).estimate == pytest.approx(5)


def test_a_curve_that_never_reaches_it_says_so() -> None:
    goal = result("DDPM-100", 95)
    assert minutes_until(curve((10, 50), (20, 60)), goal).estimate == np.inf
    rows = [
        TrainedRow("EBT", 1, 1, 1, 1200.0, None, curve((10, 50), (20, 60))),
        TrainedRow("MIP", 1, 1, 1, 60.0, None, []),
    ]
    table = time_table([goal], rows, "DDPM-100")
    assert table.rows == (("EBT-2", "not in 20.0", "20.0"),)
    assert "DDPM-100, 95.0%" in table.title
