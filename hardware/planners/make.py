"""The planner that the options of `deploy` name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ebt_policy import provenance
from ebt_policy.errors import UserError
from ebt_policy.hardware.config_deploy import PolicyOptions
from ebt_policy.hardware.control.planning import Planner
from ebt_policy.inference.robot_contract import POSITION, RobotContract, read_robot_contract
from ebt_policy.monitoring.recovery import Hold


def make_planner(
    options: PolicyOptions,
    fps: float,
    trained_fps: float | None = None,
    hold: Hold = lambda state, last: last,
) -> Planner:
    """The policy that these options name, warmed up: the first plans of a process are slow.

    fps: its ticks a second here. trained_fps: those of its data, where known; a server that says otherwise is refused. hold: how
    the robot holds still, see `holds`.
    """
    if bool(options.path) == bool(options.server):
        raise UserError(
            "Give either --policy.path, a policy on this computer, or --policy.server, an address."
        )
    if options.server:
        if options.calibration:
            raise UserError(
                "--policy.calibration is for a policy on this computer. On a server the server's counts: start it with `ebt-policy "
                "serve --calibration FILE`, and leave out --policy.calibration here."
            )
        from ebt_policy.hardware.planners.remote_planner import RemotePlanner
        from ebt_policy.hardware.remote.client import RemotePolicy
        from ebt_policy.hardware.remote.contract import Expectation, read_token

        token = read_token(Path(options.token_file) if options.token_file else None)
        remote = RemotePolicy(options.server, Expectation(fps=trained_fps), token, task=options.task)
        remote.connect()
        try:
            check_task(remote.welcome.tasks, options.task)
        except UserError:
            remote.close()
            raise
        return RemotePlanner(remote)
    from ebt_policy.hardware.planners.local_planner import LocalPlanner
    from ebt_policy.inference.checkpoints import find_checkpoint
    from ebt_policy.inference.runner import load_runner
    from ebt_policy.monitoring.calibration import read_calibration
    from ebt_policy.monitoring.learned_signals import LearnedSignals, beside, learned
    from ebt_policy.monitoring.recovery import Ladder
    from ebt_policy.monitoring.watched import WatchedRunner

    if options.rtc and options.calibration:
        raise UserError(
            "--policy.rtc=true makes plans alike, and --policy.calibration was made from plans that are not: its alarms would come "
            "late. Leave out one of the two."
        )
    folder = find_checkpoint(options.path)
    calibration, nets = None, None
    if options.calibration:
        file, digest = Path(options.calibration), provenance.sha256(folder / "model.safetensors")
        calibration = read_calibration(file, digest)
        nets = LearnedSignals.load(beside(file), learned(calibration.statistic.signals), digest)
    overrides = dict(options.set)
    if options.stop == "energy":
        if calibration is None or calibration.usual_energy is None:
            raise UserError(
                "--policy.stop=energy needs --policy.calibration with the usual energy of the last plan: make one with "
                "`ebt-policy calibrate`."
            )
        # A calibration of a policy that stops so has that energy among its options; its own usual one is another.
        usual = calibration.acting.get("stop_energy") or calibration.usual_energy
        overrides |= {"stop_energy": usual, "min_evaluations": 1}
    elif options.stop != "budget":
        raise UserError(f"--policy.stop is '{options.stop}'; expected budget or energy.")
    # Trying again gained nothing where it was measured (docs/results/failures.md): an alarm holds, and one that stays asks.
    ladder = Ladder(actions=("hold", "ask") if options.ladder is None else tuple(options.ladder))
    watched = WatchedRunner(
        load_runner(
            options.path,
            options.max_evaluations,
            options.n_action_steps,
            options.device,
            overrides,
            options.task,
        ),
        calibration,
        ladder if calibration is not None else None,
        hold=hold,
        nets=nets,
    )
    planner = LocalPlanner(watched, fps, pull="linear" if options.rtc and watched.runner.real_time else None)
    planner.warm_up()
    return planner


def holds(states: Sequence[str], joints: Sequence[str]) -> Hold:
    """Holding still: at the last action, and before the first where the state shows the joints to be.

    states: names of the numbers in the observation's state, joints: of the actions, each in its order. The two orders may differ,
    and the state may lack a joint: then nothing holds before the first action.
    """
    columns = {name.removesuffix(POSITION): i for i, name in enumerate(states)}
    chosen = [columns[name] for name in joints if name in columns]

    def hold(state: np.ndarray, last: np.ndarray | None) -> np.ndarray | None:
        if last is not None:
            return last
        return state[chosen] if len(chosen) == len(joints) else None

    return hold


def check_task(known: Sequence[str], task: str) -> None:
    """Raises UserError where a server's policy wants a task and none is given, or is not told its task and one is given."""
    if len(known) > 1 and not task:
        raise UserError(
            f'The server\'s policy does several tasks; say which with --task="...". It knows: {", ".join(map(repr, known[:12]))}.'
        )
    if task and not known:
        raise UserError(
            f"The server's policy is not told its task, so it cannot be asked to '{task}'. Leave --task out."
        )


def contract_of(options: PolicyOptions) -> RobotContract:
    """What the checkpoint of these options says of its robot; nothing for a policy on a server, which says it itself."""
    contract = RobotContract()
    if options.path:
        from ebt_policy.inference.runner import find_checkpoint

        contract = read_robot_contract(find_checkpoint(options.path))
    return named(contract, options)


def named(contract: RobotContract, options: PolicyOptions) -> RobotContract:
    """With the names of --policy.joints instead of the checkpoint's, where they are given. Raises UserError for a wrong number."""
    if options.joints is None:
        return contract
    names = tuple(options.joints)
    if contract.action is not None and len(contract.action.low) != len(names):
        raise UserError(
            f"--policy.joints names {len(names)} joints ({', '.join(names)}); the policy commands {len(contract.action.low)}."
        )
    same = contract.state_names is None or len(contract.state_names) == len(names)
    return dataclasses.replace(
        contract, action_names=names, state_names=names if same else contract.state_names
    )
