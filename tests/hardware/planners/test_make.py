"""The planner that the options name."""

from collections.abc import Callable

import pytest

from ebt_policy.errors import UserError
from ebt_policy.hardware.config_deploy import PolicyOptions
from ebt_policy.hardware.planners.local_planner import LocalPlanner
from ebt_policy.hardware.planners.make import make_planner


@pytest.mark.parametrize(
    ("kind", "rtc", "pull"), [("ebt", True, "linear"), ("ebt", False, None), ("act", True, None)]
)
def test_real_time_chunking_is_for_policies_that_have_it(
    checkpoint: Callable, kind: str, rtc: bool, pull: str | None
):
    planner = make_planner(PolicyOptions(path=str(checkpoint(kind)), rtc=rtc), 10.0)
    assert isinstance(planner, LocalPlanner) and planner._pull == pull


def test_alarms_that_were_calibrated_without_it_are_refused(checkpoint: Callable):
    options = PolicyOptions(path=str(checkpoint("ebt")), rtc=True, calibration="calibration.json")
    with pytest.raises(UserError, match="--policy.rtc=true makes plans alike"):
        make_planner(options, 10.0)


def test_a_calibration_beside_a_server_is_refused_as_it_would_not_count():
    options = PolicyOptions(server="ws://127.0.0.1:1", calibration="calibration.json")
    with pytest.raises(UserError, match="serve --calibration FILE"):
        make_planner(options, 10.0)
