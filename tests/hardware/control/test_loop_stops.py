"""The control loop in simulated time: stopping the arm, ending an episode and interrupting the program."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import TICK, Policy, World, position, stands

from ebt_policy.hardware.control.commands import Command


@settings(max_examples=20, deadline=None)
@given(stop=st.floats(0.2, 0.8), pause=st.floats(0.02, 0.6), latency=st.floats(0.0, 0.5))
def test_a_stop_lasts_until_the_reset_and_no_plan_of_before_is_executed(stop, pause, latency):
    world = World(Policy(n=100, execute=10), latency=lambda t: latency)
    reset = stop + pause
    world.script = {stop: world.post(Command.STOP), reset: world.post(Command.RESET)}
    good = world.policy.good
    # Plans of before the reset would be seen: they lead elsewhere from the moment of the stop on.
    world.policy.answer = lambda q: good(
        q, actions=good(q).actions + (0.0 if q.frames[-1].stamp > reset - TICK else -10.0)
    )
    world.run(2.5)
    stopped = world.arm.went(stop + 2 * TICK, reset)
    assert len(stopped) == 0 or stands(stopped)
    after = world.arm.went(reset + 2 * TICK, 2.5)
    rest = world.arm.went(0.0, reset)[-1]
    first = next(q.frames[-1].stamp for q in world.policy.asked if q.frames[-1].stamp > reset - TICK)
    moved = [told for t, told in world.arm.told if t >= reset + 2 * TICK and not np.array_equal(told, rest)]
    assert len(after) > 0
    assert len(moved) > 0
    for t, told in world.arm.told:
        if t > reset + 2 * TICK and not np.array_equal(told, rest) and t < 2.5 - 1e-6:
            assert t >= first + latency - 1e-6
            assert told == pytest.approx(position(t), abs=0.05)  # braked within limits, from far


def test_an_episode_longer_than_calibrated_is_told_once_and_its_alarms_go_on():
    world = World(Policy(execute=10))
    good, asked = world.policy.good, world.policy.asked
    world.policy.answer = lambda request: good(request, beyond=len(asked) > 3, alarm=len(asked) > 5)
    outcome = world.run(2.0)
    told = [event for event in world.events if getattr(event, "kind", "") == "beyond_calibration"]
    assert outcome.beyond == outcome.plans - 3 > 2 and outcome.alarms == outcome.plans - 5
    assert len(told) == 1 and told[0].detail.startswith("plan 4 ")
    plans = [event["beyond"] for event in world.events if isinstance(event, dict)]
    assert plans == [i >= 3 for i in range(outcome.plans)]
    world.policy.answer = good
    assert world.run(1.0).beyond == 0  # the next episode is counted anew


def test_a_stop_without_a_reset_lasts_into_the_next_episode():
    world = World(Policy(n=20))
    world.script = {0.3: world.post(Command.STOP)}
    world.run(1.0)
    world.run(1.0)
    assert stands(world.arm.went(0.3 + 2 * TICK))
    world.commands.post(Command.RESET)
    begin = world.clock.now()
    world.run(1.0)
    assert not stands(world.arm.went(begin + 3 * TICK))


@pytest.mark.parametrize("command", [Command.QUIT, Command.SUCCESS, Command.FAILURE])
def test_an_episode_ends_in_order_with_the_arm_at_rest(command: Command):
    world = World(Policy(n=100), safety={"velocity": 100.0, "acceleration": 50.0})
    world.script = {0.5: world.post(command)}
    outcome = world.run(5.0)
    assert (outcome.end, outcome.reason) == (str(command), "asked to")
    assert outcome.seconds == pytest.approx(0.5, abs=2 * TICK)
    assert world.safe.at_rest
    told = world.arm.went(0.0)
    assert np.abs(np.diff(told, n=2, axis=0)).max() <= 50.0 * TICK**2 + 1e-6  # it was not torn to a halt
    assert (told[-1] == told[-2]).all() or np.abs(told[-1] - told[-2]).max() < 0.05


def test_the_arm_is_left_at_rest_when_the_program_is_interrupted():
    def interrupted() -> None:
        raise KeyboardInterrupt

    world = World(Policy(n=100), safety={"velocity": 100.0, "acceleration": 50.0})
    world.script = {0.5: interrupted}
    with pytest.raises(KeyboardInterrupt):
        world.run(5.0)
    assert world.safe.at_rest
