"""A policy for `ebt-policy serve`: a Runner with a plan memory, as in a rollout.

Legend: T observation steps, H horizon, n actions of one reply, A action dimension.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.errors import UserError
from ebt_policy.hardware.planners.policy_features import policy_features
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.inference.robot_contract import RobotContract, check_rate, read_robot_contract
from ebt_policy.inference.runner import Runner, RunnerDecision, load_runner
from ebt_policy.language.encoders import TASK
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import StopReason
from ebt_policy.monitoring.calibration import Calibration, read_calibration
from ebt_policy.monitoring.learned_signals import LearnedSignals, beside, learned
from ebt_policy.monitoring.monitor import Reading
from ebt_policy.monitoring.watched import WatchedRunner
from ebt_policy.provenance import sha256

try:
    from ebt_policy.hardware.remote.contract import check_exposure, read_token, trained_robot
    from ebt_policy.hardware.remote.server import Decided, PolicyServer
    from ebt_policy.hardware.remote.wire import PROTOCOL, Feature, Welcome
except ModuleNotFoundError as missing:
    if missing.name not in ("msgspec", "websockets"):
        raise
    raise UserError(f"Serving needs {missing.name}: pip install 'lerobot_policy_ebt[serve]'") from None

logger = logging.getLogger(__name__)


class ServedRunner:
    """A `hardware.server.Decider`. Pictures come as uint8 (C, H, W), all else as float32."""

    def __init__(
        self,
        runner: Runner,
        *,
        policy: str = "",
        normaliser_sha256: str = "",
        fps: float | None = None,
        contract: RobotContract | None = None,
        heartbeat_s: float = 2.0,
        seed: int = 0,
        calibration: Calibration | None = None,
        nets: LearnedSignals | None = None,
    ) -> None:
        """policy: its name. fps: ticks per second of its data; without it, that of the contract. contract: what the
        checkpoint says of its robot, which clients compare with theirs. seed: of its noise, from each episode's start on.

        calibration: each decision then says its score and whether that is an alarm; nets: for its learned signals.
        Raises UserError when the calibration is of another checkpoint, or of this one acting otherwise.
        """
        config, contract = runner.config, contract or RobotContract()
        inputs, action = policy_features(runner)
        self._runner, self._seed = runner, seed
        self._pictures = {name for name, feature in inputs.items() if feature.type.name == "VISUAL"}
        self.welcome = Welcome(
            PROTOCOL,
            policy,
            {
                name: Feature(tuple(feature.shape), "uint8" if name in self._pictures else "float32")
                for name, feature in inputs.items()
            },
            Feature(tuple(action.shape), "float32"),
            runner.n_obs_steps,
            runner.n_action_steps,
            normaliser_sha256,
            runner.checkpoint_sha256,
            heartbeat_s,
            fps or contract.fps,
            None if calibration is None else calibration.threshold,
            trained_robot(contract),
            tuple(runner.sentences),
        )
        self._watched = None
        if calibration is not None:
            self._watched = WatchedRunner(runner, calibration, nets=nets)
            self._watch = self._watched.watch()
        self._noise = Noise.from_seeds([seed])
        self._memory = PlanMemory()
        self._tick: int | None = None  # of the last decision of this episode
        self._told = False
        # Of every decision, as the checkpoint or the user sets it.
        self._deadline_s = config.deadline_s if isinstance(config, EBTConfig) else None

    def decide(
        self,
        observations: Mapping[str, np.ndarray],
        *,
        tick: int,
        reset: bool,
        deadline_s: float | None,
        task: str = "",
    ) -> Decided:
        """As `hardware.server.Decider.decide`; a policy that knows deadlines stops thinking in time."""
        if reset:
            self._noise, self._tick = Noise.from_seeds([self._seed]), None
            self._memory.forget()
            if self._watched is not None:
                self._watch = self._watched.watch()
        config = self._runner.config
        if isinstance(config, EBTConfig):
            known = [limit for limit in (deadline_s, self._deadline_s) if limit is not None]
            config.deadline_s = min(known, default=None)
        batch = {
            name: values[None].astype(np.float32) / (255 if name in self._pictures else 1)
            for name, values in observations.items()
        }
        if task:
            batch[TASK] = np.array([task])
        decision, reading = self._decision(batch, tick)
        self._memory.store(decision.chunk, tick)
        self._tick = tick
        trace = decision.trace
        return Decided(
            decision.actions[0],
            int(trace.evaluations[0]),
            trace.old_plan(0),
            StopReason(int(trace.stop_reason[0])).name.lower(),
            None if reading is None else reading.score,
            reading is not None and reading.alarm,
            reading is not None and reading.beyond,
        )

    def _decision(self, batch: dict[str, np.ndarray], tick: int) -> tuple[RunnerDecision, Reading | None]:
        """On observations (1, T, ...), with what the monitor says of it."""
        previous = self._memory.at(tick)
        if self._watched is None:
            return self._runner.decide(batch, self._noise, previous), None
        ticks = self._runner.n_action_steps
        if self._tick is not None and tick - self._tick != ticks and not self._told:
            self._told = True
            logger.warning(
                "The arm asked again after %d ticks; alarms were calibrated for a decision every %d ticks, and their rate "
                "holds for that only. Said once.",
                tick - self._tick,
                ticks,
            )
        watch = self._watch
        decision = self._watched.decide(batch, self._noise, previous, [watch])
        reading = watch.readings[-1]
        for seen in (watch.signals, watch.readings, watch.recovery):
            seen.clear()  # a server runs for days, and the score needs none of them
        return decision, reading


def normaliser_sha256(checkpoint: Path) -> str:
    """One hash over the processors of a checkpoint and their statistics."""
    files = sorted(checkpoint.glob("policy_*processor*"))
    return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()


def serve(
    policy: str,
    host: str,
    port: int,
    token_file: Path | None,
    *,
    device: str = "cpu",
    max_evaluations: int | None = None,
    n_action_steps: int | None = None,
    fps: float | None = None,
    heartbeat_s: float = 2.0,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    calibration: Path | None = None,
) -> None:
    """Serves until Ctrl-C. calibration: a file of `ebt-policy calibrate`, for alarms.

    Raises UserError for whatever the user can correct, before the policy is loaded where it can.
    """
    token = read_token(token_file)
    check_exposure(host, token)
    if heartbeat_s <= 0 or (fps is not None and fps <= 0):
        raise UserError(f"--heartbeat and --fps must be above 0, found {heartbeat_s} and {fps}.")
    thresholds = read_calibration(calibration) if calibration else None
    checkpoint = find_checkpoint(policy)
    contract = read_robot_contract(checkpoint)
    if fps is not None:
        check_rate(contract.fps, fps)
    nets = None
    if calibration and thresholds:
        sha = sha256(checkpoint / "model.safetensors")
        nets = LearnedSignals.load(beside(calibration), learned(thresholds.statistic.signals), sha)
    runner = load_runner(policy, max_evaluations, n_action_steps, device, overrides)
    served = ServedRunner(
        runner,
        policy=policy[:256],
        normaliser_sha256=normaliser_sha256(checkpoint),
        fps=fps,
        contract=contract,
        heartbeat_s=heartbeat_s,
        seed=seed,
        calibration=thresholds,
        nets=nets,
    )
    welcome = served.welcome
    warm_up = {
        name: np.zeros((welcome.n_obs_steps, *feature.shape), feature.dtype)
        for name, feature in welcome.features.items()
    }
    for _ in range(2):  # the first decisions of a process are slow, and no arm should wait for them
        served.decide(warm_up, tick=0, reset=True, deadline_s=None, task=next(iter(welcome.tasks), ""))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    asyncio.run(_until_interrupted(PolicyServer(served, host, port, token)))


async def _until_interrupted(server: PolicyServer) -> None:
    async with server:
        welcome = server.welcome
        shown = "secured by a token" if server.secured else "for this computer only"
        print(f"Serving {welcome.policy} on ws://{server.host}:{server.port}, {shown}. Ctrl-C ends.")
        print(f"checkpoint {welcome.checkpoint_sha256}\nnormalisation {welcome.normaliser_sha256}")
        for name, feature in welcome.features.items():
            print(f"needs {name}: {feature}, {welcome.n_obs_steps} ticks")
        for task in welcome.tasks:
            print(f"task {task!r}")
        print(f"gives {welcome.n_action_steps} actions of {welcome.action}")
        alarms = (
            "none: no --calibration" if welcome.alarm_above is None else f"above {welcome.alarm_above:.3f}"
        )
        print(f"alarms {alarms}", flush=True)
        await asyncio.Event().wait()
