"""When a plan has ended and there is no new one, the arm brakes there: it does not go on in the plan's direction."""

import numpy as np
import pytest
from loop_world import Policy, World

from ebt_policy.hardware.control.planning import NoPlan

ACCELERATION = 720.0


def one_plan(fps: float, hz: float, degrees_per_s: float, actions: int = 20) -> tuple[World, np.ndarray]:
    """The policy plans once, along a line, and then never again. Returns the world and the plan (n, 3)."""
    world = World(
        Policy(n=actions, fps=fps),
        options={"fps": fps, "control_hz": hz, "patience_s": 3.0},
        safety={"velocity": 180.0, "acceleration": ACCELERATION, "watchdog_s": 0.5},
    )
    plan = np.tile([0.0, 10.0, 50.0], (actions, 1))
    plan[:, 0] = degrees_per_s * np.arange(actions) / fps

    def answer(request):
        if len(world.policy.asked) > 1:
            return NoPlan("the server is lost")
        return world.policy.good(request, actions=plan)

    world.policy.answer = answer
    return world, plan


@pytest.mark.parametrize("degrees_per_s", [15.0, 60.0, -60.0])
@pytest.mark.parametrize(
    ("fps", "hz"), [(50.0, 50.0), (30.0, 30.0), (30.0, 50.0), (12.5, 50.0), (10.0, 50.0)]
)
def test_it_goes_no_farther_than_braking_takes(fps: float, hz: float, degrees_per_s: float):
    world, plan = one_plan(fps, hz, degrees_per_s, min(20, int(60 * fps / abs(degrees_per_s))))
    world.run(4.0)
    went = np.array([positions[0] for _, positions in world.arm.told]) * np.sign(degrees_per_s)
    speed, last = abs(degrees_per_s), abs(plan[-1, 0])
    assert went.max() <= last + speed**2 / (2 * ACCELERATION) + speed / hz + 1e-6
    assert went.max() >= last - 1e-3
    if fps >= hz:  # otherwise the last action is due for several ticks, in which the arm comes back to it
        assert (np.diff(went) >= -1e-6).all()
    # What the plan says is followed to its end, at an even speed.
    steps = np.diff(went[(went > 0.5 * last) & (went < last)])
    assert np.ptp(steps) <= 0.02 * speed / hz


def test_an_arm_that_lags_behind_a_fast_plan_still_reaches_its_end():
    world, plan = one_plan(50.0, 50.0, 300.0, 11)
    world.run(4.0)
    went = np.array([positions[0] for _, positions in world.arm.told])
    assert went[-1] == pytest.approx(plan[-1, 0], abs=0.1)
