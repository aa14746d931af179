"""The arm's side of a policy server: observations out, actions in. Needs numpy, msgspec and websockets, nothing else.

This side is the authority. It waits for no reply longer than it chose to, learns of a lost server at once, and nothing
moves again by itself: connecting anew is the caller's decision. Legend: T observation steps, n actions, A action dimension.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from websockets.exceptions import InvalidStatus, WebSocketException

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote.contract import Expectation
from ebt_policy.hardware.remote.link import GOODBYE_S, ConnectionLost, Link, open_link
from ebt_policy.hardware.remote.wire import Array, Fault, Observe, Welcome, WireError, encode

__all__ = ["ConnectionLost", "Expectation", "NoDecision", "RemotePolicy", "Reply"]


class NoDecision(Exception):
    """The server lives and has no actions for this observation; code: that of the Fault. Hold, or try the next one."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Reply:
    """actions (n, A), row 0 for the tick observed. stamp: when that was, seconds of time.monotonic.

    round_trip_s, wait_s, decide_s: in all, in the server's queue and in the policy. energy: None where there is none.
    score, alarm: see `wire.Act`; without a monitor on the server (`Expectation.watched` asks for one) None and False.
    """

    actions: np.ndarray
    stamp: float
    round_trip_s: float
    wait_s: float
    decide_s: float
    evaluations: int
    energy: float | None
    stop_reason: str
    score: float | None = None
    alarm: bool = False


class RemotePolicy:
    """`with RemotePolicy(url, expect) as policy:` connects. One thread may call it; messages have a thread of their own."""

    def __init__(
        self,
        url: str,
        expect: Expectation | None = None,
        token: str | None = None,
        on_loss: Callable[[str], None] | None = None,
        connect_s: float = 5.0,
        name: str = "",
    ) -> None:
        """url: e.g. ws://127.0.0.1:8700. on_loss(reason): called at once, from the thread of the messages; must not block.
        connect_s: time to connect. name: for the server's log.
        """
        self._url, self._expect, self._token, self._name = url, expect or Expectation(), token, name
        self._on_loss, self._connect_s = on_loss, connect_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-policy", daemon=True)
        self._thread.start()
        self._link: Link | None = None
        self._history: deque[dict[str, np.ndarray]] = deque()
        self._overhead: deque[float] = deque([0.0], maxlen=10)  # seconds beside queue and policy, recently
        self._sequence = itertools.count()
        self._tick = 0
        self._reset = True

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def welcome(self) -> Welcome:
        """What the server said about its policy. Raises ConnectionLost before the first `connect`."""
        if self._link is None:
            raise ConnectionLost(self.lost)
        return self._link.welcome

    @property
    def lost(self) -> str:
        """Why there is no server; "" while there is one."""
        return "not connected yet" if self._link is None else self._link.lost

    def connect(self) -> Welcome:
        """Connects, or connects anew after a loss; begins a new episode.

        Raises ConnectionLost where no server answers, and UserError where it refuses or its policy is not what is expected:
        after the first time, that is also another checkpoint than then.
        """
        self._hang_up()
        opening = open_link(self._url, self._check, self._token, self._name, self._on_loss, self._connect_s)
        try:
            self._link = self._call(opening, self._connect_s + GOODBYE_S)
        except TimeoutError:
            raise ConnectionLost(f"{self._url} did not answer within {self._connect_s:g} s") from None
        except (OSError, WebSocketException, WireError) as error:
            if isinstance(error, InvalidStatus) and error.response.status_code == 401:
                raise UserError(f"{self._url} wants a token, and this one is missing or wrong.") from None
            raise ConnectionLost(f"{self._url} does not answer as a policy server: {error}") from None
        self.reset()
        return self._link.welcome

    def reset(self) -> None:
        """A new episode: forgets the history here and the plan there."""
        self._history.clear()
        self._reset = True

    def observe(self, observation: Mapping[str, Any]) -> None:
        """One tick of the control loop, {feature: shape as declared}; call it in ticks without a decision.

        Raises UserError where a feature is missing, of another shape, or of a dtype that does not convert safely.
        """
        frame = {name: self._value(name, observation) for name in self.welcome.features}
        steps = self.welcome.n_obs_steps
        if not self._history:
            self._history = deque([frame] * steps, maxlen=steps)
        self._history.append(frame)
        self._tick += 1

    def decide(self, observation: Mapping[str, Any], deadline_s: float) -> Reply:
        """The actions from this tick on; takes in the observation as `observe` does.

        deadline_s: for all of it, from here and back. Raises TimeoutError when it has passed, ConnectionLost at once when
        the server is gone, NoDecision where it has no actions, and WireError for an observation over 16 MiB.
        """
        begin = time.monotonic()
        if not 0 < deadline_s < math.inf:
            raise UserError(f"deadline_s must be a positive number of seconds, found {deadline_s}.")
        self.observe(observation)
        link = self._link
        if link is None or link.lost:
            raise ConnectionLost(self.lost)
        message = Observe(
            next(self._sequence),
            begin,
            self._tick,
            {name: Array.of(np.stack([frame[name] for frame in self._history])) for name in self._history[0]},
            # Less what the way took lately, but never so little that a single slow reply would starve the next.
            deadline_s - min(statistics.median(self._overhead), deadline_s / 2),
            self._reset,
        )
        data = encode(message)
        answer = self._call(link.ask(message.sequence, data), deadline_s - (time.monotonic() - begin))
        if isinstance(answer, Fault):
            raise NoDecision(answer.code, answer.message)
        self._reset = False
        spent = time.monotonic() - begin
        self._overhead.append(max(spent - (answer.wait_ms + answer.decide_ms) / 1e3, 0.0))
        return Reply(
            answer.actions.numpy(),
            answer.stamp,
            spent,
            answer.wait_ms / 1e3,
            answer.decide_ms / 1e3,
            answer.evaluations,
            answer.energy,
            answer.stop_reason,
            answer.score,
            answer.alarm,
        )

    def close(self) -> None:
        """Says goodbye and ends the thread. The policy cannot be used any more."""
        if self._thread.is_alive():
            self._hang_up()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _value(self, name: str, observation: Mapping[str, Any]) -> np.ndarray:
        feature = self.welcome.features[name]
        if name not in observation:
            raise UserError(
                f"The policy needs '{name}' ({feature}); there is {', '.join(sorted(observation))}."
            )
        value = np.asarray(observation[name])
        if value.shape != feature.shape or not np.can_cast(value.dtype, feature.dtype, "same_kind"):
            raise UserError(
                f"The policy needs '{name}' as {feature}; the observation has {value.dtype} {value.shape}."
            )
        return value.astype(feature.dtype)  # a copy: the caller may use its buffer again

    def _check(self, welcome: Welcome) -> None:
        self._expect.check(welcome)
        if self._link is not None and self._link.welcome.checkpoint_sha256 != welcome.checkpoint_sha256:
            raise UserError(
                f"{self._url} serves another checkpoint than before the connection was lost. Begin anew with a new "
                "RemotePolicy if that is meant."
            )

    def _hang_up(self) -> None:
        if self._link is not None:
            with contextlib.suppress(TimeoutError):
                self._call(self._link.close(), 2 * GOODBYE_S)

    def _call[T](self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Runs it there, waits here. Raises TimeoutError, whatever that thread is doing."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(max(timeout_s, 0.0))
        finally:
            future.cancel()
