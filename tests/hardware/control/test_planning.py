"""The planner thread: no error or delay of a planner reaches the loop, only its answers."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_server import TIMEOUT_S, wait_until

from ebt_policy.hardware.control import planning
from ebt_policy.hardware.control.planning import (
    InlinePlanService,
    NoPlan,
    Observation,
    Plan,
    PlannerThread,
    PlanRequest,
    finite_frames,
    sound,
)

REQUEST = PlanRequest((Observation({}, 1.0),), 0.5, True)
PLAN = Plan(np.zeros((4, 2)), 1.0, 4, 0.0)


class Planner:
    """Answers what `answer` does."""

    needs, action_size = {}, 2

    def __init__(self, answer: Callable[[PlanRequest], object]) -> None:
        self.answer, self.closed = answer, False

    def plan(self, request: PlanRequest):
        return self.answer(request)

    def close(self) -> None:
        self.closed = True


def answer_of(plan_service: PlannerThread | InlinePlanService):
    found = []
    wait_until(lambda: found.append(plan_service.poll()) or found[-1] is not None)
    return found[-1]


@pytest.fixture
def go():
    """Set, it lets blocked planners of this test return."""
    event = threading.Event()
    yield event
    event.set()


def test_asking_returns_at_once_though_the_planner_blocks(go: threading.Event):
    plan_service = PlannerThread(Planner(lambda request: go.wait(TIMEOUT_S) and PLAN))
    begin = time.perf_counter()
    plan_service.submit(REQUEST)
    assert plan_service.poll() is None
    assert time.perf_counter() - begin < 1.0
    assert plan_service.busy
    go.set()
    assert answer_of(plan_service) is PLAN
    plan_service.close()


@pytest.mark.parametrize("kind", [PlannerThread, InlinePlanService])
def test_every_answer_is_given_once_and_in_order(kind: type):
    planner = Planner(lambda request: NoPlan(str(request.deadline_s)))
    plan_service = kind(planner)
    assert plan_service.poll() is None
    for deadline_s in (0.1, 0.2, 0.3):
        plan_service.submit(PlanRequest(REQUEST.frames, deadline_s, False))
        assert answer_of(plan_service).reason == str(deadline_s)
        assert not plan_service.busy
        assert plan_service.poll() is None
    plan_service.close()
    assert planner.closed


@pytest.mark.parametrize("kind", [PlannerThread, InlinePlanService])
def test_a_planner_that_raises_gives_no_plan_and_is_asked_again(kind: type):
    answers = iter([ValueError("no way"), PLAN])

    def answer(request: PlanRequest) -> Plan:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    plan_service = kind(Planner(answer))
    plan_service.submit(REQUEST)
    first = answer_of(plan_service)
    assert isinstance(first, NoPlan)
    assert "no way" in first.reason
    assert not first.fatal
    plan_service.submit(REQUEST)
    assert answer_of(plan_service) is PLAN
    plan_service.close()


@pytest.mark.parametrize(
    ("actions", "stamp", "reason"),
    [
        (np.full((4, 2), np.nan), 1.0, "NaN"),
        (np.array([[0.0, np.inf]]), 1.0, "infinity"),
        (np.zeros((4, 3)), 1.0, "shape (4, 3)"),
        (np.zeros((0, 2)), 1.0, "shape (0, 2)"),
        (np.zeros(2), 1.0, "shape (2,)"),
        (np.zeros((4, 2)), 2.0, "future"),
        (np.zeros((4, 2)), 0.5, "past"),
    ],
)
def test_a_plan_that_nobody_could_follow_is_none(actions: np.ndarray, stamp: float, reason: str):
    assert sound(PLAN, 2, 0.1, 1.0) is PLAN
    answer = sound(Plan(actions, stamp, 4, 0.0), 2, 0.1, 1.0)
    assert isinstance(answer, NoPlan)
    assert reason in answer.reason


def test_a_planner_that_never_returns_does_not_keep_the_process_alive():
    script = """
import importlib.util, sys, threading
spec = importlib.util.spec_from_file_location("planning", sys.argv[1])  # alone: the package takes its time
planning = sys.modules["planning"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(planning)
class Stuck:
    def plan(self, request):
        print("asked", flush=True)
        threading.Event().wait()
plan_service = planning.PlannerThread(Stuck())
plan_service.submit(planning.PlanRequest((), 0.1, True))
plan_service.close(timeout_s=0.2)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, planning.__file__], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "asked\n"), ended.stderr


@given(st.lists(st.sampled_from([0.0, np.nan, np.inf, -np.inf]), min_size=1, max_size=6))
def test_observations_that_are_not_finite_never_reach_a_policy_and_none_is_planned_from(values: list[float]):
    request = PlanRequest(
        [Observation({"state": np.array([v, 0.0])}, float(i)) for i, v in enumerate(values)], 1.0, True
    )
    frames, reason = finite_frames(request)
    assert [frame.stamp for frame in frames] == [i for i, v in enumerate(values) if np.isfinite(v)]
    assert bool(reason) == (not np.isfinite(values[-1])) and ("'state'" in reason or not reason)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stamp": np.nan},
        {"stamp": np.inf},
        {"actions": np.array([["a"]])},
        {"actions": np.full((2, 3), None)},
    ],
)
def test_a_plan_without_numbers_is_no_plan(wrong: dict):
    plan = Plan(**{"actions": np.zeros((2, 3)), "stamp": 0.0, "execute": 1, "seconds": 0.0} | wrong)
    assert isinstance(sound(plan, 3, 0.1, 0.0), NoPlan)
