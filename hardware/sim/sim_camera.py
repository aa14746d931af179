"""Cameras of a simulated task at their own rate, slower than its ticks.

Legend: a view is a camera's name, height and width, as of `Simulator.picture`; a picture is uint8 (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

View = tuple[str, int, int]
Picture = NDArray[np.uint8]


class Shutter:
    """Takes the place of a simulator's `picture`: between exposures, views show their last picture.

    It sits beneath the wrappers of an env, so that disturbances of what is seen reach pictures of any age.
    """

    def __init__(self, simulator: Any) -> None:
        self._draw: Callable[..., Picture] = simulator.picture
        simulator.picture = self.picture
        self._pictures: dict[View, Picture] = {}
        self._live = True

    def live(self, yes: bool) -> None:
        """While it is, each picture is of this moment."""
        self._live = yes

    def expose(self) -> None:
        """A new picture is due for all views."""
        self._pictures.clear()

    def picture(self, *view: Any) -> Picture:
        if self._live or view not in self._pictures:
            self._pictures[view] = self._draw(*view)
        return self._pictures[view]

    def close(self) -> None:
        """Frees what it has made."""


class AsideShutter(Shutter):
    """Draws in a thread of its own, on a copy of the world: without a GPU a picture takes five ticks of ALOHA's.

    A picture is shown when it is done, that much later than its exposure. An exposure that is due while the last one is
    being drawn waits for it; if a second falls due meanwhile, it is lost.
    """

    def __init__(self, simulator: Any, make: Callable[[], Any]) -> None:
        """make() -> another env of the same task, for drawing alone. Both simulators have dm_control's `physics`."""
        super().__init__(simulator)
        self._physics, self._make = simulator.physics, make
        self._painter = ThreadPoolExecutor(1, thread_name_prefix="ebt_sim_camera")
        self._env: Any = None  # the painter's
        self._job: Future[dict[View, Picture]] | None = None
        self._due = False

    def live(self, yes: bool) -> None:
        super().live(yes)
        if self._job is not None:  # of a world that may be another by now
            self._job.result()
        self._job, self._due = None, False

    def expose(self) -> None:
        self._due = True

    def picture(self, *view: Any) -> Picture:
        if self._live:
            self._pictures |= self._paint([view]).result()
        elif self._job is not None and self._job.done():
            self._pictures, self._job = self._job.result(), None
        if self._due and self._job is None:
            self._job, self._due = self._paint(list(self._pictures)), False
        return self._pictures[view]

    def close(self) -> None:
        self._painter.submit(self._close)
        self._painter.shutdown()

    def _paint(self, views: Sequence[Any]) -> Future[dict[View, Picture]]:
        return self._painter.submit(self._painted, self._physics.get_state(), views)

    def _painted(self, state: NDArray[np.float64], views: Sequence[Any]) -> dict[View, Picture]:
        # Here and not earlier, because OpenGL's context belongs to the thread that makes it. Never reset: gym-aloha
        # passes poses through a global variable, and somebody else may be using it.
        if self._env is None:
            self._env = self._make()
        simulator = self._env.unwrapped.simulator
        simulator.physics.set_state(state)
        simulator.physics.forward()
        return {view: simulator.picture(*view) for view in views}

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
