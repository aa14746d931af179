"""The policy's observation at a tick: the joints of this moment and the newest picture of every camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebt_policy.hardware.control.joint_history import JointHistory
from ebt_policy.hardware.control.planning import Observation
from ebt_policy.hardware.sensing.observer import Observer
from ebt_policy.hardware.sensing.streams import Stale, Streams


class RobotObservationSource:
    """A `loop.ObservationSource`. A plan begins at the time of its observation.

    LeRobot records the joints of a moment with the newest pictures, however old, and a policy trained on such data has learned
    their delay: it gets the same here, and its plans begin now. aligned: instead, the joints of the moment when the oldest
    picture was taken, after its camera's latency, for data recorded that way (UMI, arXiv 2402.10329, section IV-B); plans
    begin at that moment.
    """

    def __init__(self, observer: Observer, streams: Streams, period_s: float, aligned: bool = False) -> None:
        """period_s: between two calls."""
        self.observer, self.streams, self._aligned = observer, streams, aligned
        self._history = JointHistory(period_s)
        # A simulated arm delivers its pictures together with its joints.
        streaming = {stream.name for stream in streams.streams}
        self._needed = [name for name in observer.cameras if name in streaming]

    def __call__(self, floats: Mapping[str, Any], stamp: float) -> Observation | str:
        states = self.observer.states
        if self._aligned:
            self._history.add(stamp, np.array([floats[name] for name in states]))
        if not self._needed:
            return Observation(self.observer(floats, floats), stamp)
        seen = self.streams.snapshot(stamp)
        if isinstance(seen, Stale):
            return str(seen)
        pictures = dict(floats) | {name: frame.image for name, frame in seen.frames.items()}
        if self._aligned:
            stamp = min(stamp, *(seen.frames[name].stamp for name in self._needed))
            try:
                then = self._history.at(stamp)
            except LookupError as error:
                return str(error)
            floats = dict(floats) | dict(zip(states, then.tolist(), strict=True))
        return Observation(self.observer(floats, pictures), stamp)
