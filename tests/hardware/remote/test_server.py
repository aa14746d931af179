"""The server over real sockets: its inputs, its refusals, and that it survives faulty clients and policies."""

import gc
import itertools
import logging
import socket
import time
import tracemalloc

import numpy as np
import pytest
from policy_server import (
    ACTIONS,
    STATE,
    TIMEOUT_S,
    FakeDecider,
    Held,
    hear,
    introduced,
    observe,
    raw,
    serving,
    state,
    wait_until,
)
from websockets.exceptions import ConnectionClosed

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote import wire
from ebt_policy.hardware.remote.client import NoDecision, RemotePolicy
from ebt_policy.hardware.remote.limited_log import MAX_LINES
from ebt_policy.hardware.remote.server import MAX_STRANGERS, Decided, PolicyServer
from ebt_policy.hardware.remote.wire import Act, Array, Fault, Heartbeat


def place_is_free(url: str) -> bool:
    try:
        introduced(url).close()
    except AssertionError:
        return False
    return True


def test_a_decision_carries_history_tick_and_reset_there_and_actions_and_costs_back(url, decider):
    with RemotePolicy(url) as policy:
        before = time.monotonic()
        reply = policy.decide(state(1.0), TIMEOUT_S)
        np.testing.assert_array_equal(reply.actions, ACTIONS)
        assert (reply.energy, reply.evaluations, reply.stop_reason) == (-1.5, 2, "residual")
        assert before <= reply.stamp and 0 <= reply.decide_s <= reply.round_trip_s
        policy.observe(state(2.0))
        policy.decide(state(3.0), TIMEOUT_S)
        policy.reset()
        policy.decide(state(4.0), TIMEOUT_S)
    seen = [asked["seen"][STATE][:, 0].tolist() for asked in decider.asked]
    assert seen == [[1.0, 1.0], [2.0, 3.0], [4.0, 4.0]]
    ticks = [asked["tick"] for asked in decider.asked]
    assert [b - a for a, b in itertools.pairwise(ticks)] == [2, 1]
    assert [asked["reset"] for asked in decider.asked] == [True, False, True]
    assert all(0 < asked["deadline_s"] <= TIMEOUT_S for asked in decider.asked)


def test_the_latest_observation_wins_and_a_dropped_reset_is_not_lost(url, decider):
    held = decider.answer = Held()
    with introduced(url) as peer:
        peer.send(observe(0))
        assert held.began.wait(TIMEOUT_S)
        for sequence in (1, 2, 3):
            peer.send(observe(sequence, reset=sequence == 1))
        peer.send(wire.encode(Heartbeat(5.0)))
        assert hear(peer) == Heartbeat(
            5.0
        )  # by now all of them arrived, and the server lives while it decides
        held.go.set()
        replies = [hear(peer), hear(peer)]
    assert [reply.sequence for reply in replies] == [0, 3]
    assert [asked["reset"] for asked in decider.asked] == [True, True]


def test_a_decision_that_would_come_too_late_is_not_begun(url, decider):
    held = decider.answer = Held()
    with introduced(url) as peer:
        peer.send(observe(0))
        assert held.began.wait(TIMEOUT_S)
        peer.send(observe(1, deadline_s=1e-6, reset=True))
        peer.send(wire.encode(Heartbeat(5.0)))
        assert hear(peer) == Heartbeat(5.0)
        held.go.set()
        assert isinstance(hear(peer), Act)
        late = hear(peer)
        assert isinstance(late, Fault) and (late.code, late.sequence) == ("late", 1)
        peer.send(observe(2))
        assert isinstance(hear(peer), Act)
    assert [asked["reset"] for asked in decider.asked] == [True, True]  # the late one's wish is not lost


def test_sequence_numbers_must_increase(url, decider):
    with introduced(url) as peer:
        for sequence, kind in ((5, Act), (5, Fault), (4, Fault), (6, Act)):
            peer.send(observe(sequence))
            answer = hear(peer)
            assert type(answer) is kind and answer.sequence == sequence
            assert kind is Act or answer.code == "order"
    assert len(decider.asked) == 2


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"other": np.zeros((2, 3), np.float32)}, STATE),
        ({STATE: np.zeros((1, 3), np.float32)}, "oldest first"),
        ({STATE: np.zeros((2, 3), np.float64)}, "float32"),
        ({STATE: np.full((2, 3), np.nan, np.float32)}, "NaN"),
    ],
    ids=["missing", "shape", "dtype", "nan"],
)
def test_an_observation_that_does_not_fit_is_a_fault_and_the_next_is_decided_on(
    url, decider, arrays, complaint
):
    with introduced(url) as peer:
        peer.send(observe(0, arrays={name: Array.of(values) for name, values in arrays.items()}))
        answer = hear(peer)
        assert isinstance(answer, Fault) and answer.code == "observation" and complaint in answer.message
        peer.send(observe(1))
        assert isinstance(hear(peer), Act)
    assert len(decider.asked) == 1


@pytest.mark.parametrize("first", [True, False], ids=["instead of hello", "later"])
@pytest.mark.parametrize(
    "data",
    [b"\x80\x04.", b"", "text", wire.encode(Fault("busy", ""))],
    ids=["pickle", "empty", "text", "fault"],
)
def test_what_is_no_message_ends_that_connection_only(url, first, data):
    peer = raw(url) if first else introduced(url)
    peer.send(data)
    answer = hear(peer)
    assert isinstance(answer, Fault) and answer.code == "malformed" and "Traceback" not in answer.message
    with pytest.raises(ConnectionClosed):
        peer.recv(timeout=TIMEOUT_S)
    with introduced(url) as other:
        other.send(observe(0))
        assert isinstance(hear(other), Act)


def test_an_oversized_message_is_not_read(url):
    peer = introduced(url)
    with pytest.raises(ConnectionClosed) as closed:
        peer.send(bytes(wire.MAX_BYTES + 1))
        peer.recv(timeout=TIMEOUT_S)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    wait_until(lambda: place_is_free(url))  # the client hears of it a moment before the server's side ends
    with introduced(url) as other:
        other.send(observe(0))
        assert isinstance(hear(other), Act)


@pytest.mark.parametrize(
    "actions",
    [
        np.full((4, 2), np.nan, np.float32),
        np.full((4, 2), np.inf),
        np.full((4, 2), 1e300),
        np.zeros((4, 3), np.float32),
        np.zeros((3, 2), np.float32),
        np.array([["a", "b"]] * 4),
    ],
    ids=["nan", "inf", "beyond float32", "wide", "short", "text"],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_only_finite_actions_of_the_declared_shape_leave(url, decider, actions):
    decider.answer = lambda: Decided(actions)
    with RemotePolicy(url) as policy:
        with pytest.raises(NoDecision) as none:
            policy.decide(state(), TIMEOUT_S)
        assert none.value.code == "action"
        decider.answer = lambda: Decided(ACTIONS)
        np.testing.assert_array_equal(policy.decide(state(), TIMEOUT_S).actions, ACTIONS)


def test_a_failing_policy_is_a_fault_without_traceback_and_the_server_goes_on(url, decider, caplog):
    def fail() -> Decided:
        raise RuntimeError("secret detail")

    decider.answer = fail
    with RemotePolicy(url) as policy, caplog.at_level(logging.ERROR):
        with pytest.raises(NoDecision) as none:
            policy.decide(state(), TIMEOUT_S)
        assert none.value.code == "policy"
        assert "secret" not in str(none.value) and "Traceback" not in str(none.value)
        assert "secret detail" in caplog.text and "Traceback" in caplog.text
        decider.answer = lambda: Decided(ACTIONS)
        policy.decide(state(), TIMEOUT_S)
    assert [asked["reset"] for asked in decider.asked] == [True, True]  # the failed one left no plan


def test_a_mistake_of_the_user_is_told(url, decider):
    def refuse() -> Decided:
        raise UserError("Lower n_action_steps.")

    decider.answer = refuse
    with RemotePolicy(url) as policy, pytest.raises(NoDecision, match="Lower n_action_steps"):
        policy.decide(state(), TIMEOUT_S)


def test_a_client_killed_while_the_policy_decides_makes_room_for_another(url, decider):
    held = decider.answer = Held()
    peer = introduced(url)
    peer.send(observe(0))
    assert held.began.wait(TIMEOUT_S)
    peer.socket.close()  # as when its process dies: no goodbye

    wait_until(lambda: place_is_free(url))
    with introduced(url) as other:
        other.send(observe(0))
        decider.answer = lambda: Decided(ACTIONS + 1)
        held.go.set()
        answer = hear(other)
    assert isinstance(answer, Act)
    np.testing.assert_array_equal(answer.actions.numpy(), ACTIONS + 1)
    assert decider.asked[-1]["reset"]


def test_a_silent_controller_is_dropped():
    with serving(FakeDecider(heartbeat_s=0.1)) as url:
        peer = introduced(url)
        answer = hear(peer)
        assert isinstance(answer, Fault) and answer.code == "silent"
        introduced(url).close()


def test_what_was_refused_is_not_kept_until_the_garbage_collector_comes(url):
    """A connection is part of cycles; sixteen MiB must not hang on each."""
    data = b"\x91" * 2**20
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for connect in (raw, introduced) * 4:
            with connect(url) as peer:
                peer.send(data)
                assert isinstance(hear(peer), Fault)
            del peer
        wait_until(lambda: tracemalloc.get_traced_memory()[0] - before < 3 * len(data))
    finally:
        tracemalloc.stop()
        gc.enable()


def test_one_connection_too_many_replaces_the_oldest_at_once(url):
    waiting = [raw(url) for _ in range(MAX_STRANGERS)]
    with raw(url), pytest.raises(ConnectionClosed) as closed:
        waiting[0].recv(timeout=TIMEOUT_S)
    assert closed.value.rcvd is None  # without a closing handshake, during which more could be sent
    for peer in waiting:
        peer.close()


def test_silent_connections_keep_no_controller_out(decider):
    with serving(decider, hello_s=TIMEOUT_S) as url:
        silent = [raw(url) for _ in range(2 * MAX_STRANGERS)]
        with RemotePolicy(url) as policy:
            assert policy.decide(state(), TIMEOUT_S).evaluations == 2
            silent += [raw(url) for _ in range(2 * MAX_STRANGERS)]
            assert policy.decide(state(), TIMEOUT_S).evaluations == 2
        with RemotePolicy(url) as policy:
            assert policy.decide(state(), TIMEOUT_S).evaluations == 2
        for peer in silent:
            peer.close()


class Address:
    """Stands in for a connection from some host."""

    def __init__(self, host: str) -> None:
        self.remote_address = (host, 1)
        self.transport = self
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_a_flood_from_one_host_cuts_off_connections_of_that_host_only(decider):
    server = PolicyServer(decider, port=0)
    robot = Address("10.0.0.2")
    flood = [Address("10.0.0.9") for _ in range(5 * MAX_STRANGERS)]
    for stranger in [*flood[:3], robot, *flood[3:]]:
        server._admit(stranger)
        assert len(server._strangers) <= MAX_STRANGERS
    assert not robot.aborted
    assert [peer.aborted for peer in flood] == [True] * (len(flood) - MAX_STRANGERS + 1) + [False] * (
        MAX_STRANGERS - 1
    )


def test_many_refusals_write_few_log_lines(url, caplog):
    def refused(data: bytes) -> None:
        with raw(url) as peer:
            peer.send(data)
            hear(peer)

    with caplog.at_level(logging.INFO):
        for _ in range(3 * MAX_LINES):
            refused(b"\x80\x04.")
        with RemotePolicy(url):
            pass
    lines = [record.getMessage() for record in caplog.records]
    assert sum("refused" in line for line in lines) == MAX_LINES
    assert sum("controller" in line for line in lines) == 1  # not hidden by the refusals


def test_bytes_that_are_no_handshake_write_nothing_into_the_log(decider, caplog):
    with caplog.at_level(logging.INFO), serving(decider) as url:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100):
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), TIMEOUT_S) as peer:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    pass
    assert not caplog.records
