"""What the control loop sees at a tick: the joints of this moment and the newest picture of every camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebt_policy.hardware.control.joint_history import JointHistory
from ebt_policy.hardware.control.planning import Observation
from ebt_policy.hardware.sensing.observer import Observer
from ebt_policy.hardware.sensing.streams import Stale, Streams


class RobotObservationSource:
    """A `loop.ObservationSource`. A plan begins where its observation was made.

    LeRobot records the joints of a moment with the newest pictures there are, however old, so a policy that was trained on
    its data has learned their delay: it sees them likewise, and its plans begin now. aligned: instead, the joints of the
    moment at which the oldest picture was taken, less the camera's latency, for data that was recorded so (UMI's, arXiv
    2402.10329, section IV-B); plans begin then.
    """

    def __init__(self, observer: Observer, streams: Streams, period_s: float, aligned: bool = False) -> None:
        """period_s: between two calls."""
        self.observer, self.streams, self._aligned = observer, streams, aligned
        self._history = JointHistory(period_s)
        # Pictures that the robot shows itself, as a twin does, come with its joints.
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
