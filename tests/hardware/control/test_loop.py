"""The control loop in simulated time: the command of every tick, also while other parts fail."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loop_world import HZ, TICK, Policy, World, position, stands

from ebt_policy.hardware.control.planning import NoPlan, Plan, PlanRequest
from ebt_policy.hardware.control.schedule import Schedule
from ebt_policy.hardware.safety.filter import State

START = position(0.0)


def never(time: float) -> float:
    return np.inf


# -- following plans ---------------------------------------------------------------------------------------------------
timings = {
    "latency": st.floats(0, 0.3),
    "fps": st.sampled_from([10.0, 25.0, 30.0, 50.0]),
    "actuation": st.sampled_from([0.0, 0.05, 0.13]),
}


@settings(max_examples=20, deadline=None)
@given(execute=st.integers(1, 30), **timings)
def test_the_arm_is_where_the_plan_says_at_every_time(latency, fps, actuation, execute):
    """However slow the policy is, as long as its plans are long enough to bridge its thinking, twice at the start."""
    policy = Policy(n=execute + int((2 * latency + actuation + 3 * TICK) * fps) + 3, fps=fps, execute=execute)
    world = World(policy, latency=lambda t: latency, options={"fps": fps, "actuation_s": actuation})
    outcome = world.run(4.0)
    told = [(t, positions) for t, positions in world.arm.told if latency + 5 * TICK <= t < 4.0 - 1e-6]
    assert len(told) > 2 * HZ
    for t, positions in told:
        assert positions == pytest.approx(position(t + actuation), abs=1e-2)
    assert outcome.plans > 1


class Watched(Schedule):
    """Keeps the actions that the loop took; blending plans calls `at` too."""

    def __init__(self, period_s: float) -> None:
        super().__init__(period_s)
        self.found: list[np.ndarray | None] = []

    def merge(self, actions: np.ndarray, stamp: float, now: float) -> int:
        before = list(self.found)
        late = super().merge(actions, stamp, now)
        self.found = before
        return late

    def at(self, time: float) -> np.ndarray | None:
        self.found.append(super().at(time))
        return self.found[-1]


@settings(max_examples=20, deadline=None)
@given(**timings)
@example(latency=0.2, fps=10.0, actuation=0.0)
@example(latency=0.1, fps=30.0, actuation=0.13)
def test_the_next_plan_is_asked_for_before_this_one_ends(latency, fps, actuation):
    """Plans that would be executed to their last action, and just outlast two thoughts: that on them, and the next."""
    policy = Policy(n=int(np.ceil((2 * latency + actuation + 3 * TICK) * fps)) + 1, fps=fps)
    world = World(policy, latency=lambda t: latency, options={"fps": fps, "actuation_s": actuation})
    world.loop.schedule = Watched(1 / fps)
    world.run(3.0)
    found = world.loop.schedule.found
    first = next(i for i, target in enumerate(found) if target is not None)
    assert first <= np.ceil(latency * HZ) + 1
    assert len(found) == 3 * HZ
    assert all(target is not None for target in found[first:])


def test_a_plan_is_executed_for_as_long_as_it_says():
    for execute in (1, 5, 12):
        world = World(Policy(n=20, execute=execute))
        world.run(2.0)
        assert np.diff(world.plan_service.asked_at) == pytest.approx(execute * TICK)


def test_the_slower_the_policy_the_earlier_it_is_asked():
    asked = []
    for latency in (0.02, 0.1, 0.2):
        world = World(Policy(n=20), latency=lambda t, latency=latency: latency)
        world.run(3.0)
        asked.append(np.diff(world.plan_service.asked_at)[-1])
    assert asked == sorted(asked, reverse=True)
    assert asked[0] > asked[-1]


@pytest.mark.parametrize(("latency", "actuation"), [(0.0, 0.0), (0.12, 0.0), (0.12, 0.06)])
def test_requests_say_how_long_it_will_be_until_the_plan_is_followed(latency: float, actuation: float):
    world = World(Policy(n=40, execute=8), latency=lambda t: latency, options={"actuation_s": actuation})
    world.run(2.0)
    delays = [request.delay_s for request in world.policy.asked]
    assert delays[0] == 0  # nothing is known yet
    assert delays[1:] == pytest.approx([latency + actuation] * (len(delays) - 1)) and len(delays) > 3


def test_every_tick_of_the_policy_is_asked_about_once_and_in_order():
    world = World(Policy(n=20, fps=25.0, execute=7), latency=lambda t: 0.1, options={"fps": 25.0})
    world.run(2.0)
    stamps = [frame.stamp for request in world.policy.asked for frame in request.frames]
    assert np.diff(stamps) == pytest.approx(1 / 25)
    assert [request.reset for request in world.policy.asked] == [True] + [False] * (
        len(world.policy.asked) - 1
    )


def test_what_is_recorded_is_what_was_sent_on_what_was_seen():
    world = World(Policy(n=20, fps=25.0), options={"fps": 25.0})
    world.run(1.0)
    assert len(world.sent) == 25
    told = dict(world.arm.told)
    for sent in world.sent:
        assert list(sent.action.values()) == told[sent.observation.stamp].tolist()
        assert sent.action["shoulder.pos"] == pytest.approx(position(sent.observation.stamp)[0])


def test_late_ticks_are_left_out_and_not_caught_up_in_a_burst():
    world = World(Policy(n=100))
    stalled = iter([0.0] * 10 + [5.5 * TICK] + [0.0] * 1000)
    read = world.arm.get_observation

    def slow_read() -> dict:
        found = read()
        world.clock.sleep_until(world.clock.now() + next(stalled))
        return found

    world.arm.get_observation = slow_read
    outcome = world.run(1.0)
    times = np.array([t for t, _ in world.arm.told])
    assert np.diff(times).min() > 0.4 * TICK
    assert outcome.punctuality.missed == 5
    assert outcome.punctuality.ticks == 50 - 5
    late = times[np.argmax(np.diff(times)) + 1]
    # By time: nothing that was missed is made up for.
    for t, told in world.arm.told:
        if late < t < 1.0 - 1e-6:
            assert told == pytest.approx(position(t), abs=1e-6)


# -- no plan -----------------------------------------------------------------------------------------------------------
def test_without_a_plan_nothing_moves_and_a_human_is_asked_for():
    world = World(latency=never)
    outcome = world.run(2.0)
    assert np.array_equal(world.arm.went(0.0), np.tile(START, (len(world.arm.told), 1)))
    assert outcome.plans == 0
    assert world.safe.stopped
    asked = next(event for event in world.events if getattr(event, "kind", "") == "asks")
    assert asked.time == pytest.approx(1.0, abs=3 * TICK)


def test_when_plans_stop_the_rest_is_executed_and_then_the_arm_holds():
    world = World(Policy(n=20, execute=5), latency=lambda t: 0.0 if t < 0.5 else np.inf)
    end = 0.0
    world.script[0.9] = lambda: None
    world.run(1.25)
    end = world.plan_service.asked_at[-2] + 20 * TICK
    for t, told in world.arm.told:
        if t < end - 1e-6:
            assert told == pytest.approx(position(t), abs=1e-6)
    # From then on it coasts for no longer than the watchdog allows, and holds.
    rest = world.arm.went(end + 0.2 + 2 * TICK, 1.25)
    assert stands(rest)
    assert np.abs(rest[0] - position(end)).max() <= 5.0 * (0.2 + 2 * TICK)
    assert "hold" in world.kinds()


def test_a_policy_that_only_says_no_is_not_asked_for_ever():
    world = World()
    world.policy.answer = lambda request: NoPlan("not now")
    outcome = world.run(3.0)
    assert world.safe.stopped
    assert "asks" in world.kinds()
    assert 1.0 * HZ - 5 <= outcome.no_plans <= 1.0 * HZ + 5  # until patience ended, and not after
    assert outcome.plans == 0


def test_patience_is_for_waiting_and_not_for_executing():
    """At a low speed a plan lasts longer than patience_s."""
    world = World(Policy(n=200, execute=150))
    outcome = world.run(7.0)
    assert not world.safe.stopped
    assert outcome.plans == 3
    assert world.arm.told[-1][1] == pytest.approx(position(7.0), abs=0.2)


def test_one_bad_plan_does_not_disturb_the_one_before():
    bad = iter([False, True, True] + [False] * 100)
    world = World(Policy(n=20, execute=5))
    good = world.policy.good

    def answer(request: PlanRequest) -> Plan:
        if next(bad):
            return good(request, actions=np.full((20, 3), np.nan))
        return good(request)

    world.policy.answer = answer
    outcome = world.run(1.0)
    assert outcome.no_plans == 2
    for t, told in world.arm.told[:-1]:
        assert told == pytest.approx(position(t), abs=1e-6)


@pytest.mark.parametrize(
    "actions", [np.zeros((0, 3)), np.zeros((4, 2)), np.zeros(3), np.full((4, 3), np.inf), np.zeros((4, 3, 1))]
)
def test_a_plan_of_no_use_moves_nothing(actions: np.ndarray):
    world = World()
    world.policy.answer = lambda request: world.policy.good(request, actions=actions)
    outcome = world.run(0.5)
    assert outcome.end == "time"
    assert outcome.plans == 0
    assert (world.arm.went(0.0) == START).all()


@pytest.mark.parametrize("how", ["ask", "fatal"])
def test_a_policy_that_needs_a_human_stops_the_arm(how: str):
    world = World(Policy(n=20, execute=5))
    good = world.policy.good

    def answer(request: PlanRequest):
        if request.frames[-1].stamp < 0.3:
            return good(request)
        return replace(good(request), ask=True) if how == "ask" else NoPlan("wrong policy", fatal=True)

    world.policy.answer = answer
    world.run(1.0)
    assert world.safe.filter.state is State.STOPPED
    assert stands(world.arm.went(0.3 + 3 * TICK))
    asked = len(world.policy.asked)
    assert asked == pytest.approx(0.3 / (5 * TICK) + 1, abs=1)  # and it is asked no more


# -- nothing to see ----------------------------------------------------------------------------------------------------
def test_a_blind_loop_holds_at_once_and_begins_afresh_when_it_sees_again():
    world = World(
        Policy(n=100, execute=10), sees=lambda t: "camera top: lost" if 0.5 <= t < 1.0 - 1e-6 else ""
    )
    world.run(1.5)
    assert stands(world.arm.went(0.5 + TICK, 1.0))  # in spite of what was planned
    assert world.kinds().count("blind") == 1
    assert world.kinds().count("sees_again") == 1
    requests = [q for q in world.policy.asked if q.reset]
    assert [q.frames[0].stamp for q in requests] == pytest.approx([0.0, 1.0])
    for t, told in world.arm.told:
        if 1.0 + 2 * TICK <= t < 1.5 - 1e-6:
            assert told == pytest.approx(position(t), abs=1e-6)


def test_a_watch_that_raises_is_blind():
    def sees(t: float) -> str:
        if 0.5 <= t < 1.0:
            raise KeyError("top")
        return ""

    world = World(Policy(n=100, execute=10), sees=sees)
    assert world.run(1.5).end == "time"
    assert stands(world.arm.went(0.5 + TICK, 1.0))
    assert "sees_again" in world.kinds()


# -- the bus -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", ["reads", "sends"])
def test_one_lost_packet_is_told_and_changes_nothing(way: str):
    world = World(Policy(n=20))
    setattr(world.arm, way, lambda t: abs(t - 0.5) > TICK / 2)
    assert world.run(1.0).end == "time"
    assert (world.kinds().count("bus"), world.kinds().count("bus_works")) == (1, 1)
    for t, told in world.arm.told[:-1]:
        assert told == pytest.approx(position(t), abs=1e-6)


@pytest.mark.parametrize("way", ["reads", "sends"])
def test_a_bus_that_comes_back_in_time_is_gone_on_with_afresh(way: str):
    world = World(Policy(n=100, execute=10))
    setattr(world.arm, way, lambda t: not 0.5 - 1e-6 <= t < 1.1)
    assert world.run(1.6).end == "time"
    assert stands(world.arm.went(0.5 + 0.2 + 3 * TICK, 1.1)) or way == "sends"
    assert world.policy.asked[-1].frames[-1].stamp > 1.1
    assert next(q.reset for q in world.policy.asked if q.frames[-1].stamp > 1.1 - TICK)
    for t, told in world.arm.told:
        if 1.1 + 3 * TICK <= t < 1.6 - 1e-6:
            assert told == pytest.approx(position(t), abs=1e-6)


@pytest.mark.parametrize("way", ["reads", "sends"])
def test_a_bus_that_stays_dead_ends_the_episode_with_its_reason(way: str):
    world = World(Policy(n=100))
    setattr(world.arm, way, lambda t: t < 0.5)
    outcome = world.run(5.0)
    assert outcome.end == "error"
    assert ("no status packet" if way == "reads" else "port is gone") in outcome.reason
    assert outcome.seconds == pytest.approx(0.5 + 1.0, abs=4 * TICK)
    if way == "reads":  # it could still be told to hold
        assert stands(world.arm.went(0.5 + 0.2 + 3 * TICK))
        assert world.safe.at_rest


def test_an_arm_that_cannot_be_taken_over_again_ends_the_episode():
    """It fell, say, to where no joint should be, while the bus was away."""
    world = World(Policy(n=100))
    world.arm.reads = lambda t: not 0.5 < t < 1.0
    world.script[0.9] = lambda: world.arm.positions.update({"elbow.pos": 500.0})
    world.arm.sends = lambda t: not 0.5 < t < 1.0
    outcome = world.run(5.0)
    assert outcome.end == "error"
    assert "elbow" in outcome.reason


@pytest.mark.parametrize("lost_s", [0.02, 0.5, 3.0])
def test_an_episode_begins_as_patiently_as_it_goes_on(lost_s: float):
    """Joints that cannot be read at its start: nothing is sent until they can; after patience_s it ends with a reason."""
    world = World(Policy(n=20), safety={"velocity": 10.0})
    world.run(0.5)
    begin = world.clock.now()
    world.arm.positions["shoulder.pos"] = 30.0  # somebody moved it between the episodes
    world.arm.reads = lambda t: t >= begin + lost_s - 1e-6
    outcome = world.run(2.0)
    assert len(world.arm.went(begin, begin + lost_s)) == 0
    if lost_s < 1.0:
        assert outcome.end == "time" and outcome.plans
        assert world.arm.went(begin)[0][0] == pytest.approx(30.0, abs=10.0 * TICK)
    else:
        assert (outcome.end, outcome.plans) == ("error", 0)
        assert "no status packet" in outcome.reason and len(world.arm.went(begin)) == 0
        world.arm.reads = lambda t: True
        assert world.run(1.0).plans  # the next episode goes on


def test_a_command_that_waited_for_a_stalled_bus_is_not_sent():
    world = World(Policy(n=200, execute=10), safety={"watchdog_s": 1.0})
    read, stalled = world.arm.get_observation, [False]

    def stalling() -> dict:
        if world.clock.now() >= 0.5 and not stalled[0]:
            stalled[0] = True
            world.clock._now += 0.7  # a driver that retries for long
        return read()

    world.arm.get_observation = stalling  # type: ignore[method-assign]
    world.run(0.6)
    assert "refused_stale" in world.kinds()


def test_an_episode_that_begins_stopped_says_so():
    world = World(Policy(n=20))
    world.safe.stop("key")
    world.run(0.3)
    assert "stopped" in world.kinds()


# -- the end of an episode ----------------------------------------------------------------------------------------------
def test_a_world_that_is_finished_ends_the_episode():
    world = World(finished=lambda: world.clock.now() > 0.5)
    outcome = world.run(5.0)
    assert outcome.end == "finished"
    assert outcome.seconds == pytest.approx(0.5, abs=2 * TICK)


def test_an_episode_begins_where_nothing_is_left_of_the_last():
    world = World(Policy(n=100, execute=10), latency=lambda t: 0.1, options={"settle_s": 0.0})
    world.run(0.5)
    asked, begin = len(world.policy.asked), world.clock.now()
    outcome = world.run(0.5)
    fresh = [q for q in world.policy.asked[asked:] if q.frames[-1].stamp >= begin - 1e-6]
    assert fresh[0].reset
    assert len(fresh[0].frames) <= 0.1 * HZ + 2  # what was seen since it began
    assert stands(world.arm.went(begin, begin + 0.1))
    assert outcome.plans == len(
        [1 for event in world.events if isinstance(event, dict) and event["time"] >= begin]
    )
