"""The planner of a policy server: the same requests and answers; a lost server only means that there is no plan."""

import time

import numpy as np
import pytest
from policy_server import ACTIONS, STATE, TIMEOUT_S, FakeDecider, Held, serving, state

from ebt_policy.hardware.control.planning import NoPlan, Observation, Plan, PlanRequest
from ebt_policy.hardware.planners.remote_planner import RemotePlanner
from ebt_policy.hardware.remote.client import RemotePolicy
from ebt_policy.hardware.remote.server import Decided


def request(*values: float, deadline_s: float = TIMEOUT_S, reset: bool = False) -> PlanRequest:
    return PlanRequest([Observation(state(value), 100.0 + value) for value in values], deadline_s, reset)


@pytest.fixture
def planner(url: str):
    remote = RemotePolicy(url)
    remote.connect()
    planner = RemotePlanner(remote)
    yield planner
    planner.close()


def test_it_needs_what_the_server_says(planner: RemotePlanner):
    assert planner.needs == {STATE: (3,)}
    assert planner.action_size == 2


def test_the_server_decides_on_the_last_ticks_and_the_plan_begins_at_the_last(planner, decider: FakeDecider):
    decider.answer = lambda: Decided(ACTIONS, 7, -1.5, "residual", 0.75, True)
    plan = planner.plan(request(1, 2, 3, reset=True))
    assert isinstance(plan, Plan)
    assert np.array_equal(plan.actions, ACTIONS)
    assert (plan.stamp, plan.execute) == (103.0, len(ACTIONS))
    assert (plan.evaluations, plan.energy, plan.stop_reason) == (7, -1.5, "residual")
    planner.plan(request(4))
    planner.plan(request(5, reset=True))
    seen = [asked["seen"][STATE][:, 0].tolist() for asked in decider.asked]
    assert seen == [[2, 3], [3, 4], [5, 5]]  # a new episode has no past
    assert [asked["reset"] for asked in decider.asked] == [True, False, True]


def test_alarms_of_the_server_reach_the_plan(decider: FakeDecider):
    watching = FakeDecider(alarm_above=0.5)
    watching.answer = lambda: Decided(ACTIONS, 2, -1.5, "residual", 0.75, True, True)
    with serving(watching) as url, RemotePolicy(url) as remote:
        plan = RemotePlanner(remote).plan(request(1, reset=True))
    assert (plan.score, plan.alarm, plan.beyond) == (0.75, True, True)


def test_it_waits_no_longer_than_the_deadline_and_a_late_reply_is_not_the_next(planner, decider: FakeDecider):
    held = decider.answer = Held()
    begin = time.monotonic()
    answer = planner.plan(request(1, deadline_s=0.05, reset=True))
    assert time.monotonic() - begin < TIMEOUT_S / 2
    assert isinstance(answer, NoPlan)
    assert "0.050 s" in answer.reason
    assert not answer.fatal
    decider.answer = lambda: Decided(ACTIONS + 1)
    held.go.set()
    assert np.array_equal(planner.plan(request(2)).actions, ACTIONS + 1)


def test_no_deadline_is_one_too(planner: RemotePlanner):
    """In simulated time the wall's does not count."""
    assert isinstance(planner.plan(request(1, deadline_s=np.inf, reset=True)), Plan)


def test_a_lost_server_is_no_plan_and_is_found_again(decider: FakeDecider):
    with serving(decider) as url:
        remote = RemotePolicy(url)
        remote.connect()
        planner = RemotePlanner(remote)
        assert isinstance(planner.plan(request(1, reset=True)), Plan)
    answer = planner.plan(request(2))
    assert isinstance(answer, NoPlan)
    assert not answer.fatal
    with serving(decider, int(url.rpartition(":")[2])):
        assert isinstance(planner.plan(request(3)), Plan)
        assert decider.asked[-1]["reset"]  # whatever was planned before is void
    planner.close()


def test_what_only_a_human_can_mend_is_fatal(planner: RemotePlanner):
    wrong = PlanRequest([Observation({STATE: np.zeros(5, np.float32)}, 0.0)], TIMEOUT_S, True)
    answer = planner.plan(wrong)
    assert isinstance(answer, NoPlan)
    assert answer.fatal
    assert STATE in answer.reason
