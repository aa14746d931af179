"""What makes time pass in a simulated world: the wall's clock, or a loop that sleeps by a simulated one."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing

from ebt_policy.hardware.control.clock import Clock, SteppedClock, WallClock
from ebt_policy.hardware.sim.sim_world import Command, Snapshot, World

logger = logging.getLogger(__name__)


class Runner:
    """A world under way: whoever drives it, any thread may read `snapshot` and set `command` at any time.

    Both are replaced whole and never changed, so that nobody waits for the physics. They outlast the world.
    """

    clock: Clock
    slow_ticks = 0  # those after which the next was late already, and time was stretched by as much
    failure: BaseException | None = None  # what ended the world in a thread of its own

    def __init__(self, make: Callable[[], World], fps: int) -> None:
        self._make, self._fps = make, fps
        self.snapshot: Snapshot | None = None
        self.command: Command | None = None  # (A,); from a reset on: hold still
        self.joint_ranges: dict[str, tuple[float, float]] = {}

    def start(self, seed: int) -> None:
        """Makes the world and begins the first episode. Raises what these raise, and nothing is left running then."""
        raise NotImplementedError

    def reset(self, seed: int) -> None:
        """Begins another episode, and returns when it has."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends the world, if there is one; `start` may make another."""
        raise NotImplementedError

    def _begin(self, world: World, seed: int) -> None:
        self.joint_ranges = world.joint_ranges
        self.snapshot, self.command = world.reset(seed)

    def _tick(self, world: World) -> None:
        assert self.command is not None  # since `_begin`
        self.snapshot = world.tick(self.command)


class Lockstep(Runner):
    """Time passes while a loop sleeps by the clock. `start`, `reset`, `stop` and the clock belong to one thread."""

    def __init__(self, make: Callable[[], World], fps: int) -> None:
        super().__init__(make, fps)
        self._world: World | None = None
        self._stepped = SteppedClock(fps, self._advance)
        self.clock = self._stepped

    def start(self, seed: int) -> None:
        self._world = self._make()
        try:
            self.reset(seed)
        except BaseException:
            self.stop()
            raise

    def reset(self, seed: int) -> None:
        assert self._world is not None  # since `start`
        self._begin(self._world, seed)
        self._stepped.restart()

    def stop(self) -> None:
        world, self._world = self._world, None
        if world is not None:
            world.close()

    def _advance(self) -> None:
        if self._world is not None:
            self._tick(self._world)


class Realtime(Runner):
    """Time passes on the wall: a thread makes the world and ticks it at its rate.

    A tick that ends after the next was due puts off all later ones by as much and is counted; none is left out.
    """

    def __init__(self, make: Callable[[], World], fps: int) -> None:
        super().__init__(make, fps)
        self.clock = WallClock()
        self._thread: threading.Thread | None = None
        self._requests: queue.SimpleQueue[tuple[int, Future[None]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # no request is put into the queue after the thread has left it

    def start(self, seed: int) -> None:
        self._requests, self.failure, self.slow_ticks = queue.SimpleQueue(), None, 0
        self._thread = threading.Thread(target=self._run, name="ebt_sim", daemon=True)
        self._thread.start()
        try:
            self.reset(seed)
        except BaseException:
            self.stop()
            raise

    def reset(self, seed: int) -> None:
        done: Future[None] = Future()
        with self._lock:
            if self.failure is not None:
                raise self.failure
            self._requests.put((seed, done))
        done.result()

    def stop(self) -> None:
        self._requests.put(None)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            with closing(self._make()) as world:
                self._live(world)
        except BaseException as error:
            logger.warning("The simulation has ended: %r", error)
            with self._lock:
                self.failure = error
            while not self._requests.empty():
                if (request := self._requests.get()) is not None:
                    request[1].set_exception(error)

    def _live(self, world: World) -> None:
        period, due = 1 / self._fps, None
        while True:
            if due is None or not self._requests.empty():
                request = self._requests.get()
                if request is None:
                    return
                seed, done = request
                try:
                    self._begin(world, seed)
                except BaseException as error:
                    done.set_exception(error)
                    raise
                done.set_result(None)
                due = self.clock.now()
            due += period
            self.clock.sleep_until(due)
            self._tick(world)
            late = self.clock.now() - (due + period)
            if late > 0:
                self.slow_ticks += 1
                due += late
