"""What the control loop sees at a tick: the joints of this moment and the newest picture of every camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebt_policy.hardware.observer import Observer
from ebt_policy.hardware.planning import Seen
from ebt_policy.hardware.streams import Stale, Streams


class Eyes:
    """A `loop.Watch`. An observation is as old as the oldest of its pictures: plans begin there."""

    def __init__(self, observer: Observer, streams: Streams) -> None:
        self.observer, self.streams = observer, streams
        # Pictures that the robot shows itself, as a twin does, come with its joints.
        streaming = {stream.name for stream in streams.streams}
        self._needed = [name for name in observer.cameras if name in streaming]

    def __call__(self, floats: Mapping[str, Any], stamp: float) -> Seen | str:
        if not self._needed:
            return Seen(self.observer(floats, floats), stamp)
        seen = self.streams.snapshot(stamp)
        if isinstance(seen, Stale):
            return str(seen)
        pictures = dict(floats) | {name: frame.image for name, frame in seen.frames.items()}
        oldest = min(seen.frames[name].stamp for name in self._needed)
        return Seen(self.observer(floats, pictures), min(oldest, stamp))
