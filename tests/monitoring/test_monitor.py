"""One episode watched."""

import numpy as np
import pytest

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


def test_what_is_no_number_is_an_alarm(monitor: Monitor):
    reading = monitor.update({"energy": float("inf")})
    assert reading.alarm
    monitor.reset_score()
    assert not monitor.update({"energy": 1.0}).alarm


def test_the_episode_score_counts_the_horizon_only(monitor: Monitor):
    for _ in range(10):
        monitor.update({"energy": np.e})
    assert monitor.worst == pytest.approx(4)
