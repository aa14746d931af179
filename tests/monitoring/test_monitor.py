"""One episode watched."""

from dataclasses import replace

import numpy as np
import pytest

from ebt_policy.eval.failures.calibrate import episode_score
from ebt_policy.monitoring.calibration import calibrated
from ebt_policy.monitoring.monitor import Monitor
from ebt_policy.monitoring.signals import Statistic


@pytest.fixture
def monitor() -> Monitor:
    return Monitor(
        calibrated(
            np.linspace(0.1, 3, 30),
            alpha=0.1,
            statistic=Statistic(("energy",), (0.0,), (1.0,)),
            horizon=4,
            checkpoint_sha256="",
            source="",
        )
    )


def test_it_alarms_above_the_threshold_and_not_before(monitor: Monitor):
    readings = [monitor.update({"energy": np.e}) for _ in range(4)]
    assert [reading.alarm for reading in readings] == [
        score > monitor.calibration.threshold for score in (1, 2, 3, 4)
    ]
    assert readings[-1].alarm and not readings[0].alarm
    assert [r.quantile for r in readings] == sorted(r.quantile for r in readings)


def test_what_lies_past_the_calibrated_length_says_so_also_after_a_reset(monitor: Monitor):
    beyond = []
    for decision in range(7):
        if decision == 2:
            monitor.reset_score()
        beyond.append(monitor.update({"energy": 1.0}).beyond)
    assert beyond == [False] * 4 + [True] * 3  # horizon 4


def test_false_alarms_keep_to_alpha_up_to_the_calibrated_length_and_not_past_it():
    draw = np.random.default_rng(0)
    statistic, horizon, alpha = Statistic(("energy",), (0.0,), (1.0,)), 30, 0.1

    def episode(length: int) -> list[dict[str, float]]:
        return [{"energy": value} for value in np.exp(draw.normal(size=length))]

    scores = [episode_score(statistic, episode(horizon), horizon) for _ in range(999)]
    calibration = calibrated(
        scores, alpha=alpha, statistic=statistic, horizon=horizon, checkpoint_sha256="", source=""
    )
    within, anywhere = 0, 0
    for _ in range(1000):
        monitor = Monitor(calibration)
        readings = [monitor.update(values) for values in episode(2 * horizon)]
        within += any(reading.alarm for reading in readings if not reading.beyond)
        anywhere += any(reading.alarm for reading in readings)  # alarms past it are not silenced
    assert within / 1000 < alpha + 0.04  # two calibrations and episodes of 1000: +- .03
    assert anywhere / 1000 > 2 * alpha


def test_a_score_equal_to_the_threshold_is_no_alarm(monitor: Monitor):
    score = monitor.update({"energy": np.e}).score
    watching = Monitor(replace(monitor.calibration, scores=(score,) * 30))
    reading = watching.update({"energy": np.e})
    assert reading.score == watching.calibration.threshold and not reading.alarm
    assert watching.update({"energy": np.e}).alarm  # the score has risen


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_signal_that_is_no_finite_number_alarms_until_the_score_is_reset(monitor: Monitor, value: float):
    reading = monitor.update({"energy": value})
    assert reading.alarm and reading.quantile > 1 - monitor.calibration.alpha
    assert monitor.update({"energy": 1.0}).alarm
    monitor.reset_score()
    assert not monitor.update({"energy": 1.0}).alarm


def test_a_decision_without_the_signal_changes_nothing(monitor: Monitor):
    before = monitor.update({"energy": np.e})
    assert monitor.update({}) == before
