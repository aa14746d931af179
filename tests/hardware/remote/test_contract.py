"""The handshake carries the robot of the training data; the client orders joints by name or refuses."""

import logging

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_server import ACTIONS, STATE, TIMEOUT_S, FakeDecider, hear, raw, serving

from ebt_policy.errors import UserError
from ebt_policy.hardware.planners.remote_planner import RemotePlanner
from ebt_policy.hardware.remote import wire
from ebt_policy.hardware.remote.client import Expectation, RemotePolicy
from ebt_policy.hardware.remote.contract import contract_of, trained_robot
from ebt_policy.hardware.remote.wire import Fault, Range, TrainedRobot
from ebt_policy.inference.robot_contract import Ranges, RobotContract

TRAINED = TrainedRobot(
    ("pan", "lift", "grip"),
    ("pan.pos", "grip.pos"),
    "so101_follower",
    Range((-90.0, -80.0, 0.0), (90.0, 80.0, 99.0)),
    Range((-90.0, 0.0), (90.0, 99.0)),
)
REACH = {"pan": (-100.0, 99.0), "grip": (0.0, 100.0)}


def robot(**changes) -> FakeDecider:
    return FakeDecider(robot=msgspec.structs.replace(TRAINED, **changes))


def test_joints_in_another_order_are_put_into_the_policys_and_its_actions_into_the_robots():
    decider = robot()
    expect = Expectation(
        state_names=("grip", "pan", "lift"), action_names=("grip", "pan"), joint_ranges=REACH
    )
    with serving(decider) as url, RemotePolicy(url, expect) as policy:
        policy.observe({STATE: np.array([7.0, 8.0, 9.0])})
        reply = policy.decide({STATE: np.array([1.0, 2.0, 3.0])}, TIMEOUT_S)
    np.testing.assert_array_equal(decider.asked[0]["seen"][STATE], [[8, 9, 7], [2, 3, 1]])
    np.testing.assert_array_equal(reply.actions, ACTIONS[:, ::-1])


@pytest.mark.parametrize(
    ("expect", "complaint"),
    [
        (Expectation(action_names=("pan", "wrist")), "Missing: grip; not known to the policy: wrist"),
        (Expectation(state_names=("pan", "lift", "grip", "roll")), "not known to the policy: roll"),
        (
            Expectation(action_names=("pan", "grip"), joint_ranges={"pan": (-1.6, 1.6), "grip": (0, 1)}),
            "units",
        ),
        (
            Expectation(action_names=("grip", "pan"), joint_ranges={"grip": (0, 1), "pan": (-1.6, 1.6)}),
            "grip 0 to 99 in the data, 0 to 1 on this robot",
        ),
        (Expectation(fps=30.0), "10 ticks a second.*30"),
    ],
)
def test_a_robot_with_other_joints_units_or_rate_is_refused(expect, complaint):
    with serving(robot()) as url, pytest.raises(UserError, match=complaint), RemotePolicy(url, expect):
        pass


def test_what_the_checkpoint_does_not_say_is_told(url, caplog):
    with caplog.at_level(logging.WARNING), RemotePolicy(url, Expectation(action_names=("a", "b"))):
        pass
    assert "does not say the order of the joints, the range of the joints: not compared" in caplog.text


def test_the_arm_side_gets_the_contract_of_the_servers_checkpoint():
    with serving(robot()) as url, RemotePolicy(url) as policy:
        contract = RemotePlanner(policy).contract
    assert (contract.state_names, contract.action_names) == (TRAINED.state_names, TRAINED.action_names)
    assert (contract.fps, contract.robot_type) == (10.0, "so101_follower")
    assert contract.action is not None
    np.testing.assert_array_equal(contract.action.high, [90, 99])


names = st.none() | st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=5).map(tuple)
ranges = st.none() | st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 9)), min_size=1, max_size=5).map(
    lambda pairs: Ranges(np.array([a for a, _ in pairs]), np.array([a + b for a, b in pairs]))
)


@given(
    st.builds(
        RobotContract,
        names,
        names,
        st.none() | st.floats(1, 99),
        st.none() | st.text("abc", min_size=1, max_size=9),
        ranges,
        ranges,
    )
)
def test_a_contract_survives_the_way(contract: RobotContract):
    decider = FakeDecider(robot=trained_robot(contract), fps=contract.fps)
    found = contract_of(wire.decode(wire.encode(decider.welcome)))
    for name in ("state_names", "action_names", "fps", "robot_type"):
        assert getattr(found, name) == getattr(contract, name)
    for name in ("state", "action"):
        sent, came = getattr(contract, name), getattr(found, name)
        assert (sent is None) == (came is None)
        assert sent is None or (np.array_equal(sent.low, came.low) and np.array_equal(sent.high, came.high))


@pytest.mark.parametrize(
    "wrong", [((0.0,), (1.0, 2.0)), ((1.0,), (0.0,)), ((0.0,), (float("inf"),)), ((float("nan"),), (1.0,))]
)
def test_ranges_of_no_sense_are_no_message(wrong):
    with pytest.raises(ValueError, match="range"):
        Range(*wrong)
    low, high = wrong
    data = msgspec.msgpack.encode({"low": low, "high": high})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(data, type=Range)


def test_clients_and_servers_of_an_older_version_are_told_both_versions(url):
    old_hello = msgspec.msgpack.encode({"type": "hello", "protocol": 2, "client": "old"})
    with raw(url) as peer:
        peer.send(old_hello)
        answer = hear(peer)
    assert isinstance(answer, Fault) and answer.code == "protocol"
    assert f"version {wire.PROTOCOL}, not 2" in answer.message and "same version" in answer.message


def test_a_server_that_sends_another_version_is_refused_in_words():
    with (
        serving(FakeDecider(protocol=wire.PROTOCOL - 1)) as url,
        pytest.raises(
            UserError,
            match=f"version {wire.PROTOCOL - 1} of the protocol, this client version {wire.PROTOCOL}",
        ),
        RemotePolicy(url),
    ):
        pass
