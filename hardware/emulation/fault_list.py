"""The list of faults that are injected into a simulated deployment, and the reaction expected of the control loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ebt_policy.hardware.control.commands import Command
from ebt_policy.hardware.control.planning import Answer, NoPlan, Plan
from ebt_policy.hardware.emulation.fault_world import FPS, HORIZON, Cell, instead

Act = Callable[[Cell], None]
HOLD, GO_ON, STOP, ERROR, END = "holds", "goes on", "stops", "ends with an error", "ends"
NO_REPLY = "no reply from motor 3"
# When the next plan does not come, the rest of the last one is still executed.
REMAINDER_S = HORIZON / FPS


@dataclass(frozen=True)
class Case:
    """A fault and the reaction expected.

    reaction: HOLD until the fault is over, then go on; GO_ON; STOP until a human resets it; ERROR or END of the episode.
    fault, lift: begin and end the fault. remainder: only the next plan is missing, so the arm first follows the current plan
    to its end. operator: a human drives when it comes. lasts: seconds of the fault. delay: seconds until the loop looks at what is wrong.
    """

    name: str
    reaction: str
    fault: Act
    lift: Act = lambda cell: None
    remainder: bool = False
    lasts: float = 3.0  # seconds
    delay: float = 0.0  # seconds until it is looked at
    operator: bool = False


def _plans(change: Callable[[Plan], Answer]) -> Act:
    def act(cell: Cell) -> None:
        cell.plan_service.change = change

    return act


def _normal(cell: Cell) -> None:
    cell.plan_service.change = lambda plan: plan
    cell.plan_service.latency_s = 0.06


def _latency(seconds: float) -> Act:
    return lambda cell: setattr(cell.plan_service, "latency_s", seconds)


def _arm(**values: object) -> Act:
    def act(cell: Cell) -> None:
        for name, value in values.items():
            setattr(cell.arm, name, value)

    return act


def _camera(index: int, **values: object) -> Act:
    def act(cell: Cell) -> None:
        for name, value in values.items():
            setattr(cell.cameras[index], name, value)

    return act


def _fails(plan: Plan) -> Plan:
    raise RuntimeError("out of memory")


def _one_read_fails(cell: Cell) -> None:
    original = cell.arm.get_observation

    def once() -> dict:
        cell.arm.get_observation = original  # type: ignore[method-assign]
        raise ConnectionError(NO_REPLY)

    cell.arm.get_observation = once  # type: ignore[method-assign]


def _pause(seconds: float) -> Act:
    """The whole process pauses: the computer slept, or was busy."""

    def act(cell: Cell) -> None:
        cell.clock._now += seconds

    return act


def _leader(change: Callable[[dict[str, float]], dict[str, float]]) -> Act:
    return lambda cell: setattr(cell.leader, "change", change)


def _once(change: Callable[[dict[str, float]], dict[str, float]]) -> Act:
    """Changes one reading of the leader."""

    def act(cell: Cell) -> None:
        def changed(action: dict[str, float]) -> dict[str, float]:
            cell.leader.change = lambda action: action
            return change(action)

        cell.leader.change = changed

    return act


def _unplugged(cell: Cell) -> None:
    cell.leader.lost = "no such device"


def _again(cell: Cell) -> None:
    """Leader and camera work again, and the operator takes over anew."""
    cell.leader.lost, cell.leader.change = "", lambda action: action
    cell.cameras[0].lost = None
    cell.commands.post(Command.TAKE_OVER)


def _nan(action: dict[str, float]) -> dict[str, float]:
    return action | {"elbow.pos": float("nan")}


def _far(action: dict[str, float]) -> dict[str, float]:
    return dict.fromkeys(action, 1000000.0)


def _twice(cell: Cell) -> None:
    """Hands back, asks and takes over again, all at once."""
    for _ in range(3):
        cell.commands.post(Command.TAKE_OVER)


def _stalled(cell: Cell) -> None:
    cell.arm.reading = cell.arm.positions.copy()


CASES: tuple[Case, ...] = (
    # The policy.
    Case("policy never answers again", STOP, _latency(np.inf), _normal, remainder=True),
    Case("policy is late once, 0.2 s", GO_ON, _latency(0.2), _normal),
    Case("policy takes 0.4 s for every plan", GO_ON, _latency(0.4), _normal),
    Case("policy takes 1 s, plans last 0.64 s", STOP, _latency(1.0), _normal, remainder=True),
    Case("policy raises an error", STOP, _plans(_fails), _normal, remainder=True),
    Case(
        "plan of NaN", STOP, _plans(lambda p: replace(p, actions=p.actions * np.nan)), _normal, remainder=True
    ),
    Case(
        "plan of infinities",
        STOP,
        _plans(lambda p: replace(p, actions=p.actions + np.inf)),
        _normal,
        remainder=True,
    ),
    Case(
        "plan far outside the limits", GO_ON, _plans(lambda p: replace(p, actions=p.actions * 1e6)), _normal
    ),
    Case("plan that jumps", GO_ON, _plans(lambda p: replace(p, actions=-3 * p.actions)), _normal),
    Case(
        "plan that trembles at every tick",
        GO_ON,
        _plans(lambda p: replace(p, actions=p.actions * np.where(np.arange(HORIZON) % 2, 1, -1)[:, None])),
        _normal,
    ),
    Case(
        "plan of another number of joints",
        STOP,
        _plans(lambda p: replace(p, actions=p.actions[:, :2])),
        _normal,
        remainder=True,
    ),
    Case(
        "plan of long ago",
        STOP,
        _plans(lambda p: replace(p, stamp=p.stamp - 60)),
        _normal,
        remainder=True,
    ),
    Case(
        "plan of the future", STOP, _plans(lambda p: replace(p, stamp=p.stamp + 60)), _normal, remainder=True
    ),
    Case("policy asks for a human (energy alarm)", STOP, _plans(instead(ask=True, alarm=True)), _normal),
    # A server.
    Case("server is lost", STOP, _plans(lambda _: NoPlan("the connection ended")), _normal, remainder=True),
    Case(
        "server serves another checkpoint",
        STOP,
        _plans(lambda _: NoPlan("another checkpoint than before", fatal=True)),
        _normal,
    ),
    # Cameras.
    Case("camera gives no new pictures", HOLD, _camera(0, stuck=True), _camera(0, stuck=False)),
    Case("camera frozen, fresh stamps", HOLD, _camera(1, frozen=True), _camera(1, frozen=False)),
    Case("camera unplugged", HOLD, _camera(0, lost="unplugged"), _camera(0, lost=None)),
    Case("one camera 0.12 s behind the other", HOLD, _camera(0, delay_s=0.12), _camera(0, delay_s=0.0)),
    # The bus and the arm.
    Case("one read fails", GO_ON, _one_read_fails),
    Case("no read works for 1 s", HOLD, _arm(read_error=NO_REPLY), _arm(read_error=""), lasts=1.0),
    Case("no command arrives for 1 s", HOLD, _arm(send_error=NO_REPLY), _arm(send_error=""), lasts=1.0),
    Case("no read works", ERROR, _arm(read_error=NO_REPLY), _arm(read_error="")),
    Case("no command arrives", ERROR, _arm(send_error=NO_REPLY), _arm(send_error="")),
    Case("a joint reads NaN", ERROR, _arm(reading=np.array([0.0, np.nan, 0.0])), _arm(reading=None)),
    Case("readings stand still", STOP, _stalled, _arm(reading=None)),
    Case("a joint is blocked", STOP, _arm(blocked=True), _arm(blocked=False)),
    Case("a motor is too hot", STOP, _arm(temperature=80), _arm(temperature=40), delay=2.0),
    # The computer and the human.
    Case("computer pauses for 0.15 s", GO_ON, _pause(0.15)),
    Case("computer pauses for 1 s", GO_ON, _pause(1.0)),
    Case("stop while thinking", STOP, lambda cell: cell.commands.post(Command.STOP)),
    Case("Ctrl-C", END, lambda cell: cell.commands.post(Command.QUIT)),
    # A human drives.
    Case("takeover: leader unplugged", HOLD, _unplugged, _again, delay=0.1, operator=True),
    Case("takeover: one reading is missing", GO_ON, _once(lambda action: {}), operator=True),
    Case("takeover: one reading of NaN", GO_ON, _once(_nan), operator=True),
    Case("takeover: readings of NaN", HOLD, _leader(_nan), _again, delay=0.1, operator=True),
    Case("takeover: one reading far outside", GO_ON, _once(_far), operator=True),
    Case("takeover: readings far outside", GO_ON, _leader(_far), operator=True),
    Case("takeover: a second one at once", GO_ON, _twice, operator=True),
    Case("takeover: policy never answers", GO_ON, _latency(np.inf), operator=True),
    Case("takeover: stop", STOP, lambda cell: cell.commands.post(Command.STOP), operator=True),
    Case(
        "takeover: camera unplugged",
        HOLD,
        _camera(0, lost="no such device"),
        _again,
        operator=True,
    ),
    Case("takeover: Ctrl-C", END, lambda cell: cell.commands.post(Command.QUIT), operator=True),
)
