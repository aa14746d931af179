"""The leader's thread: however slow or broken the device is, nobody waits for it."""

import threading
import time

import numpy as np
import pytest
from fake_leader import JOINTS, FakeLeader
from policy_server import wait_until

from ebt_policy.hardware.control.clock import WallClock
from ebt_policy.hardware.safety.filter import SafetyEvent
from ebt_policy.hardware.takeover.announcer import Announcer
from ebt_policy.hardware.takeover.device import JointDevice
from ebt_policy.hardware.takeover.leader import Leader, LeaderState, LeaderThread

WIDTHS = np.array([180.0, 200.0, 100.0])


@pytest.fixture
def made():
    """A leader with motors, and what reads it."""
    teleop = FakeLeader(time.monotonic, motors=True)
    teleop.connect()
    thread = LeaderThread(
        Leader(teleop, JointDevice(JOINTS), JOINTS, WIDTHS, 200.0, 10.0), WallClock(), 200.0
    )
    yield teleop, thread
    thread.close()


def test_it_is_matched_and_released_on_its_own_thread(made):
    teleop, thread = made
    goal = np.array([0.0, 10.0, 50.0])
    number = thread.match(goal)
    wait_until(lambda: thread.poll().state is LeaderState.READY and thread.poll().served == number)
    assert teleop.at == pytest.approx(goal) and teleop.torque and thread.poll().matched
    thread.release()
    wait_until(lambda: thread.poll().state is LeaderState.DRIVEN)
    assert not teleop.torque and thread.poll().positions == pytest.approx(goal)


def test_a_device_that_hangs_holds_nobody_up(made):
    teleop, thread = made
    hangs = threading.Event()

    def hanging(t: float, action: dict) -> dict:
        hangs.wait(20.0)
        return action

    teleop.reply = hanging
    time.sleep(0.05)
    begin = time.monotonic()
    for _ in range(1000):
        thread.poll()
        thread.match(np.zeros(3))
        thread.release()
    assert time.monotonic() - begin < 1.0
    old = thread.poll().stamp
    time.sleep(0.05)
    assert thread.poll().stamp == old  # and its age shows that it is late
    hangs.set()


def test_a_lost_device_is_connected_again(made):
    teleop, thread = made
    wait_until(lambda: thread.poll().positions is not None)
    lost = [True]
    teleop.reads = lambda t: not lost[0]
    wait_until(lambda: "no status packet" in thread.poll().trouble)
    thread.match(np.zeros(3))
    wait_until(lambda: teleop.calls.count("connect") >= 2)
    lost[0] = False
    wait_until(lambda: not thread.poll().trouble and thread.poll().state is LeaderState.READY)
    assert teleop.torque


def test_at_the_end_the_motors_let_go_and_the_port_is_free(made):
    teleop, thread = made
    thread.match(np.zeros(3))
    wait_until(lambda: teleop.torque)
    thread.close()
    assert not teleop.torque and not teleop.is_connected


def test_a_stalled_terminal_holds_nobody_up():
    shown: list[str] = []
    stalled = threading.Event()

    def show(text: str) -> None:
        stalled.wait(20.0)
        shown.append(text)

    announcer = Announcer(True, show)
    begin = time.monotonic()
    for _ in range(1000):
        announcer(SafetyEvent(0.0, "asks", "the policy is not sure"))
        announcer(SafetyEvent(0.0, "clipped", "no news"))
        announcer({"kind": "plan"})
    assert time.monotonic() - begin < 1.0
    stalled.set()
    wait_until(lambda: len(shown) >= 30)
    assert shown[0].startswith("\aASKS: the policy is not sure") and not any(
        "no news" in text for text in shown
    )


@pytest.mark.parametrize(
    ("leader", "words"), [(True, "holds. t: take over"), (False, "is stopped. r: the policy")]
)
def test_it_is_said_what_the_operator_can_do(leader: bool, words: str):
    shown: list[str] = []
    announcer = Announcer(leader, shown.append)
    announcer(SafetyEvent(0.0, "asks", "no plan for 3.0 s"))
    announcer.close()
    assert words in shown[0] and "no plan for 3.0 s" in shown[0]
