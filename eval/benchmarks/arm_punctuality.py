"""Timing of the control loop on this machine: jitter, missed ticks and age of commands, also with stalled disk and viewer."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebt_policy.eval.benchmarks.arm_stand_ins import emulated_so101, untrained
from ebt_policy.eval.report.live_viewer import LiveViewer
from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions, RecordOptions, StreamOptions
from ebt_policy.hardware.control.episode import Outcome
from ebt_policy.hardware.deploy import deploy
from ebt_policy.hardware.safety.config_safe_robot import SafetyOptions

FPS = 30.0
CAMERAS = ("front", "wrist")
# As in configs/my_robot.yaml: plans of about one second, half of it executed.
PLAN = {"horizon": 32, "n_action_steps": 16}
SMALL = {"resize_shape": (240, 320), "crop_shape": (216, 288)}


@dataclass(frozen=True)
class Line:
    """The measured outcome of one setup."""

    name: str
    outcome: Outcome


def measure(folder: Path, hz: float, seconds: float, tell: Callable[[str], None]) -> list[Line]:
    """Run each policy normally, and with viewer, recorder and disk stalled on purpose."""
    lines = []
    for name, seen in (("state only", ()), ("two cameras", CAMERAS)):
        policy = untrained(folder / f"policy-{len(seen)}", seen, **PLAN, **(SMALL if seen else {}))
        for stalled in (False, True):
            title = f"{name}, {'all stalled' if stalled else 'as it is'}"
            tell(f"{title}: {seconds:.0f} s")
            run = folder / title.replace(", ", "-").replace(" ", "_")
            lines.append(Line(title, _run(run, policy, hz, seconds, stalled)))
    return lines


def _run(folder: Path, policy: Path, hz: float, seconds: float, stalled: bool) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    config = DeployConfig(
        policy=PolicyOptions(path=str(policy)),
        safety=SafetyOptions(start_gate=None),
        streams=StreamOptions(),
        record=RecordOptions(root=str(folder / "data")) if stalled else RecordOptions(),
        fps=FPS,
        speed=1.0,
        control_hz=hz,
        seconds=seconds,
        output=str(folder),
    )
    with emulated_so101(folder / "arm", CAMERAS) as robot, contextlib.ExitStack() as stack:
        listeners: dict[str, Any] = {}
        if stalled:
            listeners = stack.enter_context(_stalled(folder, seconds))
        return deploy(config, robot=robot, **listeners)[0]


@contextlib.contextmanager
def _stalled(folder: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """Stall everything beside the loop: a log file that blocks (a pipe without a reader), a viewer that never returns, and a
    recorder process that is stopped until the episode is over.
    """
    log = folder / "events.jsonl"
    log.unlink(missing_ok=True)
    os.mkfifo(log)
    forever = threading.Event()

    def never_returns(*_: Any) -> None:
        forever.wait()

    viewer = LiveViewer(never_returns)
    stopped: list[int] = []

    def on_frame(sent: Any) -> None:
        if not stopped:  # the recorder is running: stop it
            for child in multiprocessing.active_children():
                if child.name == "recorder" and child.pid is not None:
                    os.kill(child.pid, signal.SIGSTOP)
                    stopped.append(child.pid)
                    threading.Timer(seconds + 2, os.kill, (child.pid, signal.SIGCONT)).start()

    try:
        yield {"on_plan": lambda plan: viewer.log(plan), "on_frame": on_frame}
    finally:
        forever.set()
        viewer.close()
