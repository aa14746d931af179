"""The operator takes over from the policy and hands back, in simulated time: nothing jumps, and nothing outlives a hand-over."""

from collections.abc import Callable

import numpy as np
import pytest
from fake_leader import START
from loop_world import TICK, Policy, World, stands

from ebt_policy.hardware.control.commands import Command

LIMITS = {"velocity": 60.0, "acceleration": 400.0, "ramp_s": 0.2, "start_gate": None}


def wave(t: float) -> np.ndarray:
    return np.array([8 * np.sin(2 * t), 5 * np.sin(3 * t), 6 * np.sin(2.5 * t)])


def helped(motors: bool, latency: Callable[[float], float] = lambda t: 0.0, **options) -> World:
    """The policy alarms at .5 s; the operator takes over at 4 s and hands back at 6 s."""
    options = {"ask_timeout_s": 10.0} | options
    made: list[World] = []
    world = World(
        Policy(n=20, execute=5),
        motors=motors,
        safety=dict(LIMITS),
        options=options,
        latency=latency,
        finished=lambda: made[0].clock.now() > 25.0,  # a correction has no end of its own
    )
    made.append(world)
    world.leader.hand = wave
    good, asked = world.policy.good, []

    def alarms_once(request):
        ask = not asked and request.frames[-1].stamp >= 0.5 - 1e-6
        asked.extend([1] * ask)
        return good(request, alarm=ask, ask=ask)

    world.policy.answer = alarms_once
    world.script = {
        4.0: world.post(Command.TAKE_OVER),
        6.0: world.post(Command.TAKE_OVER),
    }
    return world


def speeds(told: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(told, axis=0)) / TICK


def within_limits(world: World) -> None:
    told = world.arm.went(0.0)
    assert speeds(told).max() <= LIMITS["velocity"] * (1 + 1e-6)
    assert np.abs(np.diff(told, n=2, axis=0)).max() <= LIMITS["acceleration"] * TICK**2 * (1 + 1e-6)


@pytest.mark.parametrize("motors", [True, False])
def test_from_alarm_to_hand_back(motors: bool):
    world = helped(motors)
    outcome = world.run(4.0)
    phases = [kind for kind in world.kinds() if kind in ("asks", "matched", "takes_over", "hands_back")]
    assert phases == (
        ["asks", "matched", "takes_over", "hands_back"] if motors else ["asks", "takes_over", "hands_back"]
    )
    assert (outcome.end, outcome.asked, outcome.takeovers) == ("time", 1, 1)
    within_limits(world)
    # While it asks it stands, and it stood still as soon as it could.
    assert stands(world.arm.went(0.8, 4.0))
    # Just taken over, it moves from where it stood, by no more than the operator moves.
    clutch = world.arm.went(3.9, 4.2)
    assert speeds(clutch).max() < 40
    # Afterwards it follows the hand's motion.
    then = world.arm.went(5.5, 6.0)
    moved = np.array([wave(5.5 + k * TICK) for k in range(len(then))])
    assert np.abs((then - then[0]) - (moved - moved[0])).max() < 1.0
    if motors:  # and has the leader's pose
        assert np.abs(then[-1] - (world.leader.at + wave(5.98) - wave(4.04))).max() < 1.0
    assert not stands(world.arm.went(6.3, 7.0))  # the policy drives again


def test_a_leader_without_motors_is_never_followed_to_its_own_pose():
    world = helped(motors=False)
    rest = None
    world.script[3.99] = lambda: None
    world.run(4.0)
    rest = world.arm.went(3.9, 4.0)[-1]
    assert np.abs(world.arm.went(4.0, 6.0) - rest).max() < 20  # the hand moves by less; the leader is 40 away
    assert np.abs(START - rest).max() > 30


def test_motors_bring_the_leader_to_the_arm_before_the_operator_gets_it():
    world = helped(motors=True)
    world.run(4.0)
    rest = world.arm.went(3.9, 4.0)[-1]
    assert world.leader.feedback[-1] == pytest.approx(rest)
    way = np.abs(np.diff([START, *world.leader.feedback], axis=0))
    assert (way <= 0.25 * np.array([180.0, 200.0, 100.0]) * TICK + 1e-6).all()
    assert not world.leader.torque


@pytest.mark.parametrize("latency", [0.0, 0.1])
def test_after_the_hand_back_no_plan_of_before_is_executed_and_thinking_begins_anew(latency: float):
    world = helped(motors=False, latency=lambda t: latency)
    world.run(2.0)
    (asked,) = [event.time for event in world.events if getattr(event, "kind", "") == "asks"]
    assert 0.5 <= asked < 1.0
    after = [q for q in world.policy.asked if q.frames[-1].stamp > asked + 1e-6]
    assert after[0].reset and min(f.stamp for q in after for f in q.frames) > 6.0 - TICK - 1e-6
    within_limits(world)


def test_without_an_answer_the_arm_holds_and_the_episode_ends_in_order():
    world = helped(motors=True, ask_timeout_s=3.0)
    world.script = {}
    outcome = world.run(60.0)
    assert outcome.end == "unanswered" and outcome.seconds == pytest.approx(3.6, abs=0.2)
    assert stands(world.arm.went(0.8)) and "unanswered" in world.kinds()


def test_without_a_leader_an_unanswered_stop_ends_the_episode_too():
    world = World(Policy(n=20), options={"ask_timeout_s": 2.0})
    good = world.policy.good
    world.policy.answer = lambda q: good(q, ask=True)
    assert world.run(60.0).end == "unanswered"


def test_the_time_of_asking_and_correcting_does_not_count():
    outcome = helped(motors=False).run(2.0)
    assert outcome.end == "time" and outcome.seconds == pytest.approx(2.0 + 5.5, abs=0.2)


def test_the_policy_can_be_told_to_go_on_without_a_correction():
    world = helped(motors=True)
    world.script = {2.0: world.post(Command.RESET)}
    outcome = world.run(3.0)
    assert (outcome.asked, outcome.takeovers) == (1, 0)
    assert stands(world.arm.went(0.8, 2.0)) and not stands(world.arm.went(2.3, 3.0))


def test_the_key_asks_first_and_then_takes_over():
    world = helped(motors=False)
    world.policy.answer = world.policy.good
    world.script = {1.0: world.post(Command.TAKE_OVER), 2.0: world.post(Command.TAKE_OVER)}
    world.run(3.0)
    assert stands(world.arm.went(1.3, 2.0)) and not stands(world.arm.went(2.3, 3.0))
    assert "takes_over" in world.kinds()


def test_without_a_leader_the_key_says_what_is_missing():
    world = World()
    world.script = {0.5: world.post(Command.TAKE_OVER)}
    world.run(1.0)
    assert "no_leader" in world.kinds() and not stands(world.arm.went(0.6))


def test_the_devices_own_button_takes_over_and_hands_back():
    world = helped(motors=False)
    world.policy.answer = world.policy.good
    world.leader.wants = lambda t: 1.0 <= t < 2.0
    world.script = {}
    outcome = world.run(2.0)
    assert outcome.takeovers == 1
    assert [k for k in world.kinds() if k in ("asks", "takes_over", "hands_back")] == [
        "asks",
        "takes_over",
        "hands_back",
    ]


def test_only_the_operators_frames_are_marked_and_waiting_is_left_out():
    world = helped(motors=False)
    world.run(4.0)
    marked = [sent.observation.stamp for sent in world.sent if sent.intervention]
    assert min(marked) >= 4.0 and max(marked) <= 6.0 and len(marked) == pytest.approx(100, abs=4)
    assert not [sent for sent in world.sent if 0.6 < sent.observation.stamp < 4.0]
    told = dict(world.arm.told)
    for sent in world.sent:  # what is recorded is what was sent
        assert list(sent.action.values()) == pytest.approx(told[sent.observation.stamp])


def test_motion_beyond_a_limit_is_not_stored_up():
    world = helped(motors=False)
    # 400 to one side, then back: the way back begins at once.
    world.leader.hand = lambda t: np.array([min(t - 4, 2.0) * 200 - max(t - 6, 0.0) * 20, 0.0, 0.0]) * (t > 4)
    world.script[8.0] = world.script.pop(6.0)
    world.run(4.0)
    told = world.arm.went(5.9, 8.0)[:, 0]
    assert told.max() <= 90 + 1e-6
    assert told[-1] < told.max() - 20


FAULTS = {
    "leader unplugged": lambda world: setattr(world.leader, "reads", lambda t: not 5.0 <= t < 7.0),
    "leader late": lambda world: setattr(world.leader, "reads", lambda t: not 5.0 <= t < 5.6),
    "leader gives NaN": lambda world: setattr(
        world.leader, "reply", lambda t, a: a | ({"elbow.pos": float("nan")} if 5.0 <= t < 6.0 else {})
    ),
    "leader forgets a joint": lambda world: setattr(
        world.leader, "reply", lambda t, a: {"elbow.pos": 0.0} if 5.0 <= t < 6.0 else a
    ),
    "stop": lambda world: world.script.update(
        {5.0: world.post(Command.STOP), 7.0: world.post(Command.RESET)}
    ),
    "camera": lambda world: setattr(world, "sees", lambda t: "stale" if 5.0 <= t < 6.0 else ""),
    "arm's bus": lambda world: setattr(world.arm, "reads", lambda t: not 5.0 <= t < 5.5),
}


@pytest.mark.parametrize("motors", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_takeover_that_breaks_off_leaves_the_arm_holding_until_the_operator_begins_anew(
    fault: str, motors: bool
):
    world = helped(motors)
    world.script = {4.0: world.post(Command.TAKE_OVER), 11.0: world.post(Command.TAKE_OVER)}
    FAULTS[fault](world)
    world.script[13.0] = world.post(Command.QUIT)
    outcome = world.run(4.0)
    assert (outcome.end, outcome.asked, outcome.takeovers) == ("quit", 2, 2)
    assert stands(world.arm.went(5.9, 11.0))
    assert not stands(world.arm.went(11.5, 13.0))
    within_limits(world)


@pytest.mark.parametrize("motors", [True, False])
@pytest.mark.parametrize(
    "reply",
    [
        lambda t, a: a | ({"elbow.pos": float("nan")} if 5.0 <= t < 5.01 else {}),
        lambda t, a: a | ({"elbow.pos": 1e6} if 5.0 <= t < 5.01 else {}),
        lambda t, a: {name: value * 1e9 for name, value in a.items()} if t >= 5.0 else a,
    ],
    ids=["one NaN", "one leap", "out of range for good"],
)
def test_wrong_positions_of_the_leader_never_lead_the_arm_beyond_its_limits(reply, motors: bool):
    world = helped(motors)
    world.leader.reply = reply
    outcome = world.run(4.0)
    assert outcome.takeovers == 1 and outcome.end == "time"
    within_limits(world)
    told = world.arm.went(0.0)
    limits = world.safe.limits()
    assert (told >= limits.low - 1e-6).all() and (told <= limits.high + 1e-6).all()


def test_two_takeovers_in_a_row():
    world = helped(motors=True)
    world.script |= {
        7.0: world.post(Command.TAKE_OVER),
        9.0: world.post(Command.TAKE_OVER),
        10.0: world.post(Command.TAKE_OVER),
    }
    outcome = world.run(4.0)
    assert (outcome.asked, outcome.takeovers) == (2, 2)
    within_limits(world)


def test_a_new_episode_begins_with_the_policy():
    world = helped(motors=True)
    world.script = {4.0: world.post(Command.TAKE_OVER), 5.0: world.post(Command.FAILURE)}
    assert world.run(4.0).end == "failure"
    assert world.safe.at_rest
    begin = world.clock.now()
    outcome = world.run(1.0)
    assert (outcome.takeovers, outcome.end) == (0, "time")
    assert not any(sent.intervention for sent in world.sent if sent.observation.stamp >= begin)
    assert not world.leader.torque
