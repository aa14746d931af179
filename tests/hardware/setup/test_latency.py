"""Latency measurement finds known delays, in simulated time and on emulated servos."""

import itertools
import json
import shlex
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from fake_arm import FakeArm, FakeArmConfig
from fake_camera import FakeCamera

from ebt_policy.errors import UserError
from ebt_policy.hardware import body as body_module
from ebt_policy.hardware.config_deploy import DeployConfig
from ebt_policy.hardware.control.clock import SteppedClock
from ebt_policy.hardware.control.commands import Command, Commands
from ebt_policy.hardware.safety.config_safe_robot import SafetyOptions
from ebt_policy.hardware.setup import latency as measuring
from ebt_policy.hardware.setup.latency import measure_latency
from ebt_policy.hardware.setup.step_response import crossing, progress_of

CALM = SafetyOptions(ramp_s=0.2)


def scene(position: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """A bright bar that moves with the joint, ten pixels a unit, before a noisy sensor."""
    columns = np.arange(160)[None]
    bar = 200 * np.exp(-(((columns - 80 - 10 * position) / 6) ** 2)) + rng.normal(20, noise, (120, 160))
    return np.repeat(np.clip(bar, 0, 255).astype(np.uint8)[..., None], 3, 2)


class LateArm(FakeArm):
    """Executes commands `delay_s` late; its pictures show the pose `camera_s` ago."""

    def __init__(
        self, folder: Path, clock: SteppedClock, delay_s: float, camera_s: float, noise: float
    ) -> None:
        super().__init__(FakeArmConfig(id="fake", calibration_dir=folder))
        self.clock, self.delay_s, self.camera_s, self.noise = clock, delay_s, camera_s, noise
        self.commands = [(-1.0, 10.0)]
        self.rng = np.random.default_rng(0)
        self.joints: set[str] = set()

    def at(self, time: float) -> float:
        return [value for stamp, value in self.commands if stamp <= time + 1e-9][-1]

    def get_observation(self) -> dict:
        now = self.clock.now()
        seen = self.at(now - self.delay_s - self.camera_s) - 10
        return self.positions | {
            "elbow.pos": self.at(now - self.delay_s) + self.rng.normal(0, 0.02),
            "front": scene(seen, self.noise, self.rng),
        }

    def send_action(self, action: dict) -> dict:
        self.commands.append((self.clock.now(), action["elbow.pos"]))
        self.joints |= {name for name, value in action.items() if abs(value - self.positions[name]) > 0.1}
        self.sent.append(action)
        return action


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    clock = SteppedClock(1000, lambda: None)
    monkeypatch.setattr(body_module, "WallClock", lambda: clock)
    return clock


def config(tmp_path: Path, **options) -> DeployConfig:
    return DeployConfig(**{"control_hz": 100.0, "output": str(tmp_path / "run"), "safety": CALM} | options)


@pytest.mark.parametrize(("delay_s", "camera_s"), [(0.03, 0.0), (0.08, 0.12), (0.2, 0.25)])
def test_known_delays_are_found(
    stepped: SteppedClock, tmp_path: Path, delay_s: float, camera_s: float, capsys: pytest.CaptureFixture[str]
):
    arm = LateArm(tmp_path, stepped, delay_s, camera_s, noise=4.0)
    found = measure_latency(config(tmp_path), arm)
    assert len(found.actuation) == measuring.STEPS and found.joint == "elbow"
    assert np.allclose(found.actuation, delay_s, atol=0.006)
    assert np.median(found.first_motion) == pytest.approx(delay_s, abs=0.006)
    assert np.median(found.cameras["front"]) == pytest.approx(camera_s, abs=0.01)
    written = json.loads((tmp_path / "run" / "latency.json").read_text())
    assert written["actuation"] == found.actuation
    assert f"--streams.actuation_s={np.median(found.actuation):.3f}" in capsys.readouterr().out


def test_it_moves_one_joint_a_little_and_slowly_and_back(stepped: SteppedClock, tmp_path: Path):
    arm = LateArm(tmp_path, stepped, 0.05, 0.0, noise=1.0)
    measure_latency(config(tmp_path, speed=1.0), arm)
    positions = np.array([value for _, value in arm.commands])
    assert arm.joints == {"elbow.pos"}
    assert np.abs(positions - 10).max() <= measuring.STEP + 0.1 and positions[-1] == pytest.approx(
        10, abs=0.1
    )
    assert (
        np.abs(np.diff(positions)).max() <= 0.25 * CALM.velocity / 100 + 1e-6
    )  # a quarter, whatever --speed says
    assert arm.calls[-1] == "disconnect"


def test_a_camera_that_sees_nothing_is_told(
    stepped: SteppedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    arm = LateArm(tmp_path, stepped, 0.05, 0.1, noise=4.0)
    monkeypatch.setattr(arm, "camera_s", 1e4)
    arm.commands.insert(0, (-1e9, 10.0))
    found = measure_latency(config(tmp_path), arm)
    assert found.blind == ["front"] and not found.cameras
    assert "not measured" in capsys.readouterr().out


def test_an_arm_that_does_not_move_is_an_error_and_is_let_go(stepped: SteppedClock, tmp_path: Path):
    arm = LateArm(tmp_path, stepped, 1e4, 0.0, noise=4.0)
    arm.commands.insert(0, (-1e9, 10.0))
    with pytest.raises(UserError, match="followed 0 of 10 steps"):
        measure_latency(config(tmp_path), arm)
    assert arm.calls[-1] == "disconnect"


def test_what_it_refuses(stepped: SteppedClock, tmp_path: Path):
    arm = LateArm(tmp_path, stepped, 0.05, 0.0, noise=1.0)
    with pytest.raises(UserError, match="sends nothing"):
        measure_latency(config(tmp_path, safety=SafetyOptions(shadow=True)), arm)
    with pytest.raises(UserError, match="no joint 'wrist'"):
        measure_latency(config(tmp_path), arm, joint="wrist")
    assert arm.sent == []


class BrokenArm(LateArm):
    """A bus that fails to read, to send between two times; `reads` may change what is read."""

    no_reads = no_sends = (np.inf, np.inf)
    tick = staticmethod(lambda now: None)

    def get_observation(self) -> dict:
        self.tick(self.clock.now())
        if self.no_reads[0] <= self.clock.now() < self.no_reads[1]:
            raise ConnectionError("no status packet")
        return super().get_observation()

    def send_action(self, action: dict) -> dict:
        if self.no_sends[0] <= self.clock.now() < self.no_sends[1]:
            raise ConnectionError("port busy")
        return super().send_action(action)


def test_lost_packets_are_survived_as_in_an_episode(stepped: SteppedClock, tmp_path: Path):
    arm = BrokenArm(tmp_path, stepped, 0.05, 0.0, noise=1.0)
    arm.no_reads, arm.no_sends = (2.0, 2.3), (5.0, 5.3)
    found = measure_latency(config(tmp_path), arm)
    assert len(found.actuation) >= measuring.STEPS - 2 and np.median(found.actuation) == pytest.approx(
        0.05, abs=0.006
    )


@pytest.mark.parametrize(("way", "words"), [("no_reads", "read the joints"), ("no_sends", "send a command")])
def test_a_bus_that_fails_for_long_ends_it(stepped: SteppedClock, tmp_path: Path, way: str, words: str):
    arm = BrokenArm(tmp_path, stepped, 0.05, 0.0, noise=1.0)
    setattr(arm, way, (2.0, np.inf))
    with pytest.raises(UserError, match=f"could not {words}"):
        measure_latency(config(tmp_path), arm)
    assert 2.0 + CALM.watchdog_s < stepped.now() < 2.2 + CALM.watchdog_s
    assert arm.calls[-1] == "disconnect"


def test_space_brakes_and_the_arm_stays_until_it_is_ended(
    stepped: SteppedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commands = Commands()
    monkeypatch.setattr(measuring, "Commands", lambda: commands)
    arm = BrokenArm(tmp_path, stepped, 0.05, 0.0, noise=1.0)
    due = {2.0: Command.STOP, 4.0: Command.RESET}

    def press(now: float) -> None:
        for moment in [t for t in due if t <= now]:
            commands.post(due.pop(moment))

    arm.tick = press
    send = arm.send_action

    def sent(action: dict) -> dict:
        press(stepped.now())
        if stepped.now() > 6.0:
            commands.post(Command.QUIT)
        return send(action)

    monkeypatch.setattr(arm, "send_action", sent)
    with pytest.raises(UserError, match="Stopped as asked"):
        measure_latency(config(tmp_path), arm)
    assert stepped.now() > 6.0 and arm.commands[-1][0] > 6.0 - 0.1  # it was held all the time
    rest = [value for time, value in arm.commands if time > 2.5]
    assert len(rest) > 100 and np.ptp(rest) == 0
    assert arm.calls[-1] == "disconnect"


def test_the_pose_to_start_from_is_a_possible_one(stepped: SteppedClock, tmp_path: Path, monkeypatch):
    """One reading after the other is nonsense, from connecting on; 85 is at least within the joint's range."""
    monkeypatch.setattr(measuring, "STEPS", 2)
    for wrong, value in itertools.product(range(1, 5), (85.0, 200.0)):
        arm = LateArm(tmp_path, stepped, 0.05, 0.0, noise=1.0)
        arm.commands = [(-1.0, 10.0)]
        read, reads = arm.get_observation, itertools.count(1)

        def once(read=read, reads=reads, wrong=wrong, value=value) -> dict:
            return read() | ({"shoulder.pos": value} if next(reads) == wrong else {})

        monkeypatch.setattr(arm, "get_observation", once)
        measure_latency(config(tmp_path), arm)
        assert arm.joints == {"elbow.pos"}, (wrong, value)


def test_crossings():
    times = np.arange(6.0)
    assert crossing(times, np.array([0, 0, 0, 0.5, 1, 1]), 0.5) == 3.0
    assert crossing(times, np.array([0, 0.2, 0, 0.4, 0.8, 1]), 0.1) == pytest.approx(2.25)
    assert crossing(times, np.zeros(6), 0.5) is None
    steady = np.array([1.0, 1, 1, 3, 3, 3])
    assert progress_of(times, steady, 2.0, 4.0).tolist() == [0, 0, 0, 1, 1, 1]  # type: ignore[union-attr]
    assert progress_of(times, np.ones(6), 2.0, 4.0) is None
    assert progress_of(times, steady, 0.5, 4.0) is None  # one sample is no rest


# -- in real time, through LeRobot's own driver ------------------------------------------------------------------------
class ServoCamera(FakeCamera):
    """Shows where a servo was `late_s` ago, thirty times a second."""

    def __init__(self, servo, late_s: float) -> None:
        super().__init__()
        self.fps, self.width, self.height = 30, 160, 120
        self.servo, self.late_s = servo, late_s
        self.past: deque[tuple[float, float]] = deque(maxlen=60)
        self.rng = np.random.default_rng(0)

    def async_read(self, timeout_ms: float = 200):
        time.sleep(1 / self.fps)
        now = time.monotonic()
        self.past.append((now, (self.servo.get("Present_Position") - 2048) * 360 / 4095))
        times, positions = np.array(self.past).T
        return scene(float(np.interp(now - self.late_s, times, positions)), 3.0, self.rng)


@pytest.mark.slow
def test_on_emulated_servos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("scservo_sdk.port_handler", reason="needs the extra feetech")
    from types import SimpleNamespace

    import scservo_sdk.port_handler as sdk_port
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    from ebt_policy.hardware.emulation.feetech_bus import EmulatedBus

    monkeypatch.setattr(sdk_port, "time", SimpleNamespace(time=lambda: time.time() / 40))
    monkeypatch.setattr(measuring, "STEPS", 6)
    monkeypatch.setattr(measuring, "WARNING_S", 0.0)
    names = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    calibration = {
        name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": 1000, "range_max": 3100}
        for i, name in enumerate(names, start=1)
    }
    (tmp_path / "arm.json").write_text(json.dumps(calibration))
    with EmulatedBus() as bus:
        for i in range(1, 7):
            bus.servo(i).set("Min_Position_Limit", 1000)
            bus.servo(i).set("Max_Position_Limit", 3100)
            bus.servo(i).turn_to(2048)
        arm = SO101Follower(SO101FollowerConfig(port=bus.port, id="arm", calibration_dir=tmp_path))
        arm.cameras = {"front": ServoCamera(bus.servo(5), 0.15)}
        found = measure_latency(config(tmp_path, control_hz=50.0), arm)
        assert [bus.servo(i).get("Torque_Enable") for i in range(1, 7)] == [0] * 6
    assert found.joint == "wrist_roll" and not found.blind
    assert 0 < np.median(found.actuation) < 0.2
    # Half a picture's period may be added by this camera, which looks before it sleeps; the rest is a busy machine.
    assert np.median(found.cameras["front"]) == pytest.approx(0.15, abs=0.06)
    line = capsys.readouterr().out.splitlines()[-1]
    assert [option.partition("=")[0] for option in shlex.split(line)] == [
        "--streams.actuation_s",
        "--streams.latency_s",
    ]
