"""Client of a policy server: sends observations, receives actions. Needs only numpy, msgspec and websockets.

The robot side decides: it never waits longer than its deadline, notices a lost server at once, and does not reconnect by
itself. Legend: T observation steps, n actions, A action dimension.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
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
from ebt_policy.hardware.remote.contract import Columns, Expectation, contract_of
from ebt_policy.hardware.remote.link import GOODBYE_S, ConnectionLost, Link, open_link
from ebt_policy.hardware.remote.wire import Array, Fault, Observe, Welcome, WireError, encode

__all__ = ["ConnectionLost", "Expectation", "NoDecision", "RemotePolicy", "Reply"]

STATE = "observation.state"
# Fields of Welcome, for people.
_WORDS = {
    "checkpoint_sha256": "checkpoint",
    "normaliser_sha256": "normalisation",
    "alarm_above": "threshold of alarms (--calibration)",
    "robot": "robot of the data (order of joints, ranges)",
}
logger = logging.getLogger(__name__)


class NoDecision(Exception):
    """The server has no actions for this observation. code: of the Fault. Hold the arm, or try the next observation."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Reply:
    """One decision of the server.

    actions: (n, A) in the robot's joint order, row 0 for the observed tick. stamp: time of the observation, in seconds of
    time.monotonic. round_trip_s, wait_s, decide_s: in total, in the server's queue, in the policy. energy: of the last
    plan, None where there is none. score, alarm, beyond: see `wire.Act`; None and False without a monitor
    (`Expectation.watched` demands one).
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
    beyond: bool = False


class RemotePolicy:
    """`with RemotePolicy(url, expect) as policy:` connects. To be used by one thread; messages have a thread of their own."""

    def __init__(
        self,
        url: str,
        expect: Expectation | None = None,
        token: str | None = None,
        on_loss: Callable[[str], None] | None = None,
        connect_s: float = 5.0,
        name: str = "",
        task: str = "",
    ) -> None:
        """url: for example ws://127.0.0.1:8700. task: sentence of the task, for a policy of several; it may be changed later. on_loss(reason): called when the connection is lost, from the thread of the
        messages; must not block. connect_s: seconds to connect. name: for the server's log.
        """
        self._url, self._expect, self._token, self._name = url, expect or Expectation(), token, name
        self.task = task
        self._on_loss, self._connect_s = on_loss, connect_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-policy", daemon=True)
        self._thread.start()
        self._link: Link | None = None
        self._history: deque[dict[str, np.ndarray]] = deque()
        self._overhead: deque[float] = deque(
            [0.0], maxlen=10
        )  # seconds on the network, of the last decisions
        self._columns = Columns()
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
        """The server's description of its policy. Raises ConnectionLost before the first `connect`."""
        if self._link is None:
            raise ConnectionLost(self.lost)
        return self._link.welcome

    @property
    def lost(self) -> str:
        """Why there is no connection; "" while there is one."""
        return "not connected yet" if self._link is None else self._link.lost

    def connect(self) -> Welcome:
        """Connects, or reconnects after a loss; begins a new episode.

        Raises ConnectionLost if no server answers, and UserError if it refuses or its policy is not what is expected. When
        reconnecting, all that it says of its policy must be as before, but for the name.
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
        self._columns = self._expect.columns(self._link.welcome)
        unknown = contract_of(self._link.welcome).unknown()
        if unknown and self._expect.names_joints:
            logger.warning("The server's checkpoint does not say %s: not compared.", ", ".join(unknown))
        self.reset()
        return self._link.welcome

    def reset(self) -> None:
        """Begins a new episode: drops the history here and the plan on the server."""
        self._history.clear()
        self._reset = True

    def observe(self, observation: Mapping[str, Any]) -> None:
        """Takes the observation of one tick of the control loop, {feature: value}; call it in ticks without a decision.

        Raises UserError if a feature is missing, has another shape, or a dtype that does not convert safely.
        """
        frame = {name: self._value(name, observation) for name in self.welcome.features}
        steps = self.welcome.n_obs_steps
        if not self._history:
            self._history = deque([frame] * steps, maxlen=steps)
        self._history.append(frame)
        self._tick += 1

    def decide(self, observation: Mapping[str, Any], deadline_s: float) -> Reply:
        """Takes the observation as `observe` does, and returns the server's actions from this tick on.

        deadline_s: seconds for all of it. Raises TimeoutError when it has passed, ConnectionLost as soon as the connection
        is lost, NoDecision if the server has no actions, and WireError for an observation over 16 MiB.
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
            # Less the network's usual time, but at least half: one slow reply must not leave the next without time.
            deadline_s - min(statistics.median(self._overhead), deadline_s / 2),
            self._reset,
            self.task,
        )
        data = encode(message)
        answer = self._call(link.ask(message.sequence, data), deadline_s - (time.monotonic() - begin))
        if isinstance(answer, Fault):
            raise NoDecision(answer.code, answer.message)
        self._reset = False
        spent = time.monotonic() - begin
        self._overhead.append(max(spent - (answer.wait_ms + answer.decide_ms) / 1e3, 0.0))
        actions = answer.actions.numpy()
        return Reply(
            actions if self._columns.action is None else actions[:, self._columns.action],
            answer.stamp,
            spent,
            answer.wait_ms / 1e3,
            answer.decide_ms / 1e3,
            answer.evaluations,
            answer.energy,
            answer.stop_reason,
            answer.score,
            answer.alarm,
            answer.beyond,
        )

    def close(self) -> None:
        """Disconnects and ends the thread. The object cannot be used afterwards."""
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
        if name == STATE and self._columns.state is not None:
            value = value[self._columns.state]
        return value.astype(feature.dtype)  # a copy: the caller may reuse its buffer

    def _check(self, welcome: Welcome) -> None:
        self._expect.check(welcome)
        if self._link is None:
            return
        before = self._link.welcome
        other = [
            _WORDS.get(name, name)
            for name in welcome.__struct_fields__
            if name != "policy" and getattr(welcome, name) != getattr(before, name)  # which is free text
        ]
        if other:
            raise UserError(
                f"{self._url} serves another {', '.join(other)} than before the connection was lost. Start the server as it was; "
                "or, if that is intended, begin anew."
            )

    def _hang_up(self) -> None:
        if self._link is not None:
            with contextlib.suppress(TimeoutError):
                self._call(self._link.close(), 2 * GOODBYE_S)

    def _call[T](self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Runs a coroutine in the other thread and waits. Raises TimeoutError even if that thread is blocked."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(max(timeout_s, 0.0))
        finally:
            future.cancel()
