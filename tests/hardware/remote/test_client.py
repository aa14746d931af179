"""The client: it keeps its deadline, notices a lost server and checks every answer."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from policy_server import ACTIONS, STATE, TIMEOUT_S, FakeDecider, Held, serving, state, wait_until, welcome
from websockets.sync.server import serve

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote import wire
from ebt_policy.hardware.remote.client import ConnectionLost, RemotePolicy
from ebt_policy.hardware.remote.server import Decided
from ebt_policy.hardware.remote.wire import Act, Array, Hello, Observe, TrainedRobot


@contextmanager
def impostor(*answers: bytes, **changes: object) -> Iterator[str]:
    """A server that sends Welcome, then one of the answers for each observation, and nothing else: no heartbeats."""
    left = list(answers)

    def handle(peer) -> None:
        peer.recv()
        peer.send(wire.encode(welcome(**changes)))
        for message in peer:
            if isinstance(wire.decode(message), Observe) and left:
                peer.send(left.pop(0))

    with serve(handle, "127.0.0.1", 0, compression=None, close_timeout=1) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(TIMEOUT_S)


def test_a_server_that_falls_silent_is_lost_within_the_heartbeat_time():
    told: list[str] = []
    with impostor(heartbeat_s=0.2) as url, RemotePolicy(url, on_loss=told.append) as policy:
        with pytest.raises(ConnectionLost, match="silent"):
            policy.decide(state(), TIMEOUT_S)
        wait_until(lambda: told)
        assert "silent" in told[0] and len(told) == 1
        with pytest.raises(ConnectionLost):
            policy.decide(state(), TIMEOUT_S)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x80\x04.",
        wire.encode(Act(0, 0.0, Array.of(np.full((4, 2), np.nan, np.float32)), 0.0, 0.0, 0)),
        wire.encode(Act(0, 0.0, Array.of(np.zeros((4, 3), np.float32)), 0.0, 0.0, 0)),
        wire.encode(Hello(1)),
    ],
    ids=["pickle", "nan", "shape", "hello"],
)
def test_a_server_that_cannot_be_trusted_is_left(answer):
    with impostor(answer) as url, RemotePolicy(url) as policy, pytest.raises(ConnectionLost):
        policy.decide(state(), TIMEOUT_S)


def test_a_server_that_goes_is_noticed_at_once_and_found_again(decider):
    told = threading.Event()
    with serving(decider) as url:
        policy = RemotePolicy(url, on_loss=lambda reason: told.set())
        policy.connect()
    port = int(url.rpartition(":")[2])
    assert told.wait(TIMEOUT_S) and policy.lost
    with pytest.raises(ConnectionLost):
        policy.connect()
    with serving(decider, port) as again:
        assert again == url
        policy.connect()
        policy.decide(state(), TIMEOUT_S)
    assert decider.asked[-1]["reset"]
    with (
        serving(FakeDecider(checkpoint_sha256="d" * 64), port),
        pytest.raises(UserError, match="another checkpoint"),
    ):
        policy.connect()
    policy.close()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"alarm_above": None}, "threshold of alarms"),
        ({"normaliser_sha256": "o" * 64}, "normalisation"),
        ({"robot": TrainedRobot(action_names=("b", "a"))}, "order of joints"),
        ({"n_action_steps": 3}, "n_action_steps"),
    ],
)
def test_a_server_that_comes_back_otherwise_is_refused(change: dict, word: str):
    usual = {"alarm_above": 1.0, "robot": TrainedRobot(action_names=("a", "b"))}
    with serving(FakeDecider(**usual)) as url:
        policy = RemotePolicy(url)
        policy.connect()
    port = int(url.rpartition(":")[2])
    with serving(FakeDecider(**usual | change), port), pytest.raises(UserError, match=word):
        policy.connect()
    with serving(FakeDecider(**usual, policy="called otherwise"), port):
        policy.connect()
    policy.close()


def test_a_value_of_the_wrong_kind_is_not_sent(url, decider):
    with RemotePolicy(url) as policy:
        for wrong in (np.zeros(4), np.array(["a"] * 3), np.zeros(3, complex)):
            with pytest.raises(UserError, match=STATE):
                policy.decide({STATE: wrong}, TIMEOUT_S)
        policy.decide({STATE: [1.0, 2.0, 3.0], "more": 1}, TIMEOUT_S)
    assert len(decider.asked) == 1


def test_a_late_reply_is_given_up_and_never_taken_for_the_next(url, decider):
    held = decider.answer = Held()
    with RemotePolicy(url) as policy:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            policy.decide(state(), 0.05)
        assert 0.04 < time.monotonic() - begin < TIMEOUT_S / 2
        decider.answer = lambda: Decided(ACTIONS + 1)
        held.go.set()
        np.testing.assert_array_equal(policy.decide(state(), TIMEOUT_S).actions, ACTIONS + 1)


def test_heartbeats_keep_a_resting_controller():
    with serving(FakeDecider(heartbeat_s=1.0)) as url, RemotePolicy(url) as policy:
        time.sleep(1.6)  # a silent one would be dropped by now
        assert not policy.lost and policy.decide(state(), TIMEOUT_S).evaluations == 2
