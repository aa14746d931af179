"""The control loop with an arm that follows its commands late, as arms do."""

from dataclasses import dataclass

import numpy as np
import pytest
from loop_world import TICK, Arm, Policy, World, rows

from ebt_policy.hardware.control.commands import Command

LAG_S = 0.1
SPEED, ACCELERATION = 150.0, 720.0  # degrees a second, and per second squared


class LaggingArm(Arm):
    def get_observation(self) -> dict:
        observed = super().get_observation()
        reached = [positions for t, positions in self.told if t <= self._now() - LAG_S + 1e-6]
        return dict(zip(observed, map(float, reached[-1]), strict=True)) if reached else observed


@dataclass
class LaggingWorld(World):
    """The policy moves the first joint at SPEED from where it sees it, back and forth."""

    kind = LaggingArm

    def __post_init__(self) -> None:
        super().__post_init__()
        self.policy.answer = self.onwards

    def onwards(self, request):
        frame = request.frames[-1]
        here = frame.values["state"]
        plan = np.tile(here, (self.policy.n, 1))
        plan[:, 0] += np.sign(30.0 - here[0]) * SPEED * TICK * np.arange(self.policy.n)
        return self.policy.good(request, actions=plan)


def made(**options) -> LaggingWorld:
    return LaggingWorld(
        Policy(n=20, execute=20),
        options={"patience_s": 3.0} | options,
        safety={"velocity": 180.0, "acceleration": ACCELERATION, "watchdog_s": 0.1},
    )


def accelerations(world: World) -> np.ndarray:
    """Of every command against its neighbours, by time: what was not sent is where it was."""
    times = np.array([t for t, _ in world.arm.told])
    told = np.array([positions for _, positions in world.arm.told])
    ticks = np.round((times - times[0]) / TICK).astype(int)
    path = told[np.searchsorted(ticks, np.arange(ticks[-1] + 1), side="right") - 1]
    return np.abs(np.diff(path, n=2, axis=0)).max(1) / TICK**2


@pytest.mark.parametrize("after", [0.0, *np.arange(0.04, 0.32, 0.02), 0.6])
def test_lifting_a_stop_of_a_moving_arm_moves_no_command_harder_than_allowed(after: float):
    world = made()
    world.script = {0.6: world.post(Command.STOP), 0.6 + after: world.post(Command.RESET)}
    world.run(2.5)
    assert accelerations(world).max() <= ACCELERATION + 1e-6
    assert np.ptp(world.arm.went(2.0)[:, 0]) > 1  # and it goes on


@pytest.mark.parametrize("lasts", [0.04, 0.12, 0.14, 0.2, 0.3, 0.5, 0.8])
def test_a_bus_that_reads_again_moves_no_command_harder_than_allowed(lasts: float):
    world = made()
    world.arm.reads = lambda t: not 0.6 <= t < 0.6 + lasts
    world.run(2.5)
    assert accelerations(world).max() <= ACCELERATION + 1e-6
    assert np.ptp(world.arm.went(2.0)[:, 0]) > 1


def test_an_arm_moved_by_hand_during_a_stop_starts_from_there():
    world = World(Policy(n=20), safety={"velocity": 180.0, "acceleration": ACCELERATION})

    def by_hand() -> None:
        world.arm.positions["shoulder.pos"] = -40.0
        world.commands.post(Command.RESET)

    world.policy.answer = lambda q: world.policy.good(
        q, actions=rows(q.frames[-1].stamp, 20, 50.0) - np.array([40.0, 0.0, 0.0])
    )
    world.script = {0.2: world.post(Command.STOP), 1.0: by_hand}
    world.run(1.1)
    assert world.arm.went(1.02)[0][0] == pytest.approx(-40.0, abs=1.0)
