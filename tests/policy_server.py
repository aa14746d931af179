"""A policy server in a thread, a policy that needs no torch, and bare connections to send anything through."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
from websockets.sync.client import ClientConnection, connect

from ebt_policy.hardware.remote import wire
from ebt_policy.hardware.remote.server import Decided, Decider, PolicyServer
from ebt_policy.hardware.remote.wire import Array, Feature, Hello, Observe, Welcome

STATE = "observation.state"
TIMEOUT_S = 20.0  # far beyond what anything takes: only a test that fails waits for it
ACTIONS = np.arange(8, dtype=np.float32).reshape(4, 2)


def welcome(**changes: object) -> Welcome:
    feature = Feature((3,), "float32", "rad")
    base = Welcome(
        wire.PROTOCOL,
        "fake",
        {STATE: feature},
        Feature((2,), "float32"),
        2,
        4,
        "n" * 64,
        "c" * 64,
        10.0,
        10.0,
    )
    return msgspec.structs.replace(base, **changes)


class FakeDecider:
    """Answers with ACTIONS unless `answer` is replaced, and keeps the requests."""

    def __init__(self, **changes: object) -> None:
        self.welcome = welcome(**changes)
        self.asked: list[dict] = []
        self.answer: Callable[[], Decided] = lambda: Decided(ACTIONS, 2, -1.5, "residual")

    def decide(self, observations, *, tick, reset, deadline_s, task="") -> Decided:
        self.asked.append(
            {"seen": dict(observations), "tick": tick, "reset": reset, "deadline_s": deadline_s, "task": task}
        )
        return self.answer()


class Held:
    """An `answer` that begins, and takes until `go`."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self) -> Decided:
        self.began.set()
        assert self.go.wait(TIMEOUT_S)
        return Decided(ACTIONS)


@contextmanager
def serving(decider: Decider, port: int = 0, **options) -> Iterator[str]:
    """A server in a thread; gives its address."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    server = PolicyServer(decider, port=port, **options)
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
