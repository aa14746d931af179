"""The server and its client over real sockets: who is let in, what is refused, and that each survives the other."""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import serve

from ebt_policy.errors import UserError
from ebt_policy.hardware import wire
from ebt_policy.hardware.client import ConnectionLost, Expectation, NoDecision, RemotePolicy
from ebt_policy.hardware.contract import read_token
from ebt_policy.hardware.server import Decided, PolicyServer
from ebt_policy.hardware.wire import Act, Array, Fault, Feature, Heartbeat, Hello, Observe, Welcome

STATE = "observation.state"
TOKEN = "0123456789abcdef"
TIMEOUT_S = 20.0  # far beyond what anything takes: only a test that fails waits for it
ACTIONS = np.arange(8, dtype=np.float32).reshape(4, 2)


def welcome(**changes: object) -> Welcome:
    feature = Feature((3,), "float32", "rad")
    base = Welcome(
        1, "fake", {STATE: feature}, Feature((2,), "float32"), 2, 4, "n" * 64, "c" * 64, 10.0, 10.0
    )
    return msgspec.structs.replace(base, **changes)


class FakeDecider:
    """Answers with ACTIONS; `answer` may be replaced, and what it was asked is kept."""

    def __init__(self, **changes: object) -> None:
        self.welcome = welcome(**changes)
        self.asked: list[dict] = []
        self.answer: Callable[[], Decided] = lambda: Decided(ACTIONS, 2, -1.5, "residual")

    def decide(self, observations, *, tick, reset, deadline_s) -> Decided:
        self.asked.append(
            {"seen": dict(observations), "tick": tick, "reset": reset, "deadline_s": deadline_s}
        )
        return self.answer()


@contextmanager
def serving(decider: FakeDecider, **options) -> Iterator[str]:
    """A server in a thread; gives its address."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    server = PolicyServer(decider, port=0, **options)
    stop = asyncio.Event()

    async def run() -> None:
        async with server:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(TIMEOUT_S)
    try:
        yield f"ws://127.0.0.1:{server.port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_S)
        loop.close()


@pytest.fixture
def decider() -> FakeDecider:
    return FakeDecider()


@pytest.fixture
def url(decider) -> Iterator[str]:
    with serving(decider) as address:
        yield address


def raw(url: str, **options) -> ClientConnection:
    # Entered here: some tests leave it by force, and the others close it.
    return connect(url, proxy=None, compression=None, close_timeout=1, **options).__enter__()


def hear(peer: ClientConnection) -> wire.Message:
    return wire.decode(peer.recv(timeout=TIMEOUT_S))


def introduced(url: str) -> ClientConnection:
    """A bare connection after Hello and Welcome."""
    peer = raw(url)
    peer.send(wire.encode(Hello(wire.PROTOCOL, "test")))
    assert isinstance(hear(peer), Welcome)
    return peer


def observe(sequence: int, **changes: object) -> bytes:
    arrays = {STATE: Array.of(np.zeros((2, 3), np.float32))}
    return wire.encode(msgspec.structs.replace(Observe(sequence, 1.0, sequence, arrays), **changes))


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def state(value: float = 0.0) -> dict[str, np.ndarray]:
    return {STATE: np.full(3, value, np.float32)}


# -- decisions -----------------------------------------------------------------------------------------------------
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
    began, go = threading.Event(), threading.Event()

    def slow() -> Decided:
        began.set()
        assert go.wait(TIMEOUT_S)
        return Decided(ACTIONS)

    decider.answer = slow
    with introduced(url) as peer:
        peer.send(observe(0))
        assert began.wait(TIMEOUT_S)
        for sequence in (1, 2, 3):
            peer.send(observe(sequence, reset=sequence == 1))
        peer.send(wire.encode(Heartbeat(5.0)))
        assert hear(peer) == Heartbeat(
            5.0
        )  # by now all of them arrived, and the server lives while it decides
        go.set()
        replies = [hear(peer), hear(peer)]
    assert [reply.sequence for reply in replies] == [0, 3]
    assert [asked["reset"] for asked in decider.asked] == [True, True]


# -- who is let in -------------------------------------------------------------------------------------------------
def test_without_the_token_nobody_gets_as_far_as_a_message():
    decider = FakeDecider()
    with serving(decider, token=TOKEN) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            with pytest.raises(InvalidStatus) as refused:
                raw(url, additional_headers=headers)
            assert refused.value.response.status_code == 401
        with pytest.raises(UserError, match="token"):
            RemotePolicy(url, token="x" * 16).connect()
        with RemotePolicy(url, token=TOKEN) as policy:
            assert policy.decide(state(), TIMEOUT_S).evaluations == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "robot.example"])
def test_other_computers_are_let_in_with_a_token_only(host):
    with pytest.raises(UserError, match="--token-file"):
        PolicyServer(FakeDecider(), host=host)
    PolicyServer(FakeDecider(), host=host, token=TOKEN)


def test_a_web_page_is_not_let_in(url):
    with pytest.raises(InvalidStatus) as refused:
        raw(url, origin="http://127.0.0.1")
    assert refused.value.response.status_code == 403


def test_a_token_is_read_from_file_or_environment_and_not_accepted_short(tmp_path, monkeypatch):
    monkeypatch.delenv("EBT_POLICY_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("EBT_POLICY_TOKEN", "short")
    with pytest.raises(UserError, match="EBT_POLICY_TOKEN"):
        read_token()
    file = tmp_path / "token"
    with pytest.raises(UserError, match="cannot be read"):
        read_token(file)
    file.write_text(TOKEN + "\n")
    assert read_token(file) == TOKEN


def test_a_second_controller_is_told_so_and_the_first_goes_on(url):
    with RemotePolicy(url) as policy:
        with pytest.raises(UserError, match="busy"):
            RemotePolicy(url).connect()
        assert policy.decide(state(), TIMEOUT_S).evaluations == 2
    with RemotePolicy(url) as policy:  # the first said goodbye
        assert policy.decide(state(), TIMEOUT_S).evaluations == 2


def test_another_version_of_the_protocol_is_refused(url):
    with raw(url) as peer:
        peer.send(wire.encode(Hello(wire.PROTOCOL + 1)))
        answer = hear(peer)
    assert isinstance(answer, Fault) and answer.code == "protocol"


@pytest.mark.parametrize(
    ("expect", "complaint"),
    [
        (Expectation(features={"observation.image": Feature((3,), "float32")}), "needs 'observation.state'"),
        (Expectation(features={STATE: Feature((4,), "float32")}), r"'observation.state' .*\(4,\)"),
        (Expectation(features={STATE: Feature((3,), "float32", "deg")}), "in rad.*in deg"),
        (Expectation(action=Feature((7,), "float32")), "the action"),
        (Expectation(fps=30.0), "10 ticks a second.*30"),
        (Expectation(normaliser_sha256="x" * 64), "normalisation is nnnnnnnnnnnn"),
        (Expectation(checkpoint_sha256="x" * 64), "checkpoint is cccccccccccc"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_by_name(url, expect, complaint):
    with pytest.raises(UserError, match=complaint), RemotePolicy(url, expect):
        pass
    fitting = Expectation({STATE: Feature((3,), "float32"), "more": Feature((), "bool")}, fps=10.0)
    with RemotePolicy(url, fitting) as policy:  # and the server is free again
        assert policy.welcome.policy == "fake"


# -- what is refused -----------------------------------------------------------------------------------------------
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


# -- failures ------------------------------------------------------------------------------------------------------
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


def test_a_late_reply_is_given_up_and_never_taken_for_the_next(url, decider):
    go = threading.Event()

    def slow() -> Decided:
        assert go.wait(TIMEOUT_S)
        return Decided(ACTIONS)

    decider.answer = slow
    with RemotePolicy(url) as policy:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            policy.decide(state(), 0.05)
        assert 0.04 < time.monotonic() - begin < TIMEOUT_S / 2
        decider.answer = lambda: Decided(ACTIONS + 1)
        go.set()
        np.testing.assert_array_equal(policy.decide(state(), TIMEOUT_S).actions, ACTIONS + 1)


def test_a_client_killed_while_the_policy_decides_makes_room_for_another(url, decider):
    began, go = threading.Event(), threading.Event()

    def slow() -> Decided:
        began.set()
        assert go.wait(TIMEOUT_S)
        return Decided(ACTIONS)

    decider.answer = slow
    peer = introduced(url)
    peer.send(observe(0))
    assert began.wait(TIMEOUT_S)
    peer.socket.close()  # as when its process dies: no goodbye

    def free() -> bool:
        try:
            introduced(url).close()
        except AssertionError:
            return False
        return True

    wait_until(free)
    with introduced(url) as other:
        other.send(observe(0))
        decider.answer = lambda: Decided(ACTIONS + 1)
        go.set()
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


def test_who_does_not_introduce_itself_is_dropped():
    with serving(FakeDecider(), hello_s=0.1) as url, raw(url) as peer:
        answer = hear(peer)
        assert isinstance(answer, Fault) and answer.code == "silent"


def test_heartbeats_keep_a_resting_controller():
    with serving(FakeDecider(heartbeat_s=0.5)) as url, RemotePolicy(url) as policy:
        time.sleep(1.2)
        assert not policy.lost and policy.decide(state(), TIMEOUT_S).evaluations == 2


# -- the client ----------------------------------------------------------------------------------------------------
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
    assert told.wait(TIMEOUT_S) and policy.lost
    with pytest.raises(ConnectionLost):
        policy.connect()
    with serving(decider) as again:
        policy._url = again
        policy.connect()
        policy.decide(state(), TIMEOUT_S)
    assert decider.asked[-1]["reset"]
    with serving(FakeDecider(checkpoint_sha256="d" * 64)) as other:
        policy._url = other
        with pytest.raises(UserError, match="another checkpoint"):
            policy.connect()
    policy.close()


def test_a_value_of_the_wrong_kind_is_not_sent(url, decider):
    with RemotePolicy(url) as policy:
        for wrong in (np.zeros(4), np.array(["a"] * 3), np.zeros(3, complex)):
            with pytest.raises(UserError, match=STATE):
                policy.decide({STATE: wrong}, TIMEOUT_S)
        policy.decide({STATE: [1.0, 2.0, 3.0], "more": 1}, TIMEOUT_S)
    assert len(decider.asked) == 1
