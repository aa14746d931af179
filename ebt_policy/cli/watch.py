"""Commands of `ebt-policy` that watch and serve: calibrate, trace, serve."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ebt_policy.cli.options import Overrides, key_values
from ebt_policy.errors import UserError


def calibrate(
    policy: str,
    env: str | None = None,
    dataset: str | None = None,
    root: Path | None = None,
    output: Path | None = None,
    episodes: int = 250,
    seed: int = 300_000,
    alpha: float = 0.1,
    signals: tuple[str, ...] = (),
    max_evaluations: int | None = None,
    n_action_steps: int | None = None,
    processes: int | None = None,
    device: str = "cpu",
    overrides: Overrides = (),
) -> None:
    """Set the threshold above which a policy's score is an alarm, from successful episodes.

    Guarantee: of new successful episodes of the same kind at most the fraction alpha raises an alarm, on average over
    calibrations (split conformal prediction). It holds up to the length that was calibrated: as many decisions as the environment
    allows, or the longest recorded episode took. In a longer episode false alarms become more frequent; `deploy` says so.
    The file is valid for this checkpoint and these options only.

    Args:
        policy: A run or checkpoint folder, USER/NAME[@REVISION] on the Hub, or shipped:NAME.
        env: Run new episodes in this environment. Give either this or --dataset.
        dataset: Use the recorded episodes of this dataset (repo id), for example of your arm. All have to be successful; those
            that `deploy` recorded as failures, or with a takeover, are left out.
        root: A local folder of the dataset instead of LeRobot's cache; enough without --dataset.
        output: Where to write the calibration (default: calibration.json in the run folder, else runs/calibration.json).
        episodes: Number of episodes to run in the environment; failed ones are not used.
        seed: Seed of the first episode.
        alpha: Accepted rate of false alarms: the fraction of successful episodes with an alarm.
        signals: Signals that the score consists of (default: old_plan overlap acceleration stillness). `rnd` measures how much
            an observation differs from the demonstrations. It found more failures where that was measured; it needs --env
            and the dataset that the policy was trained on.
        max_evaluations: Largest number of network evaluations for one decision.
        n_action_steps: Number of actions executed after each decision (default: as trained).
        processes: Number of worker processes.
        device: Torch device of the policy.
        overrides: Options of the policy, e.g. --set start=zero. The policy must act in this way later, too. For `deploy
            --policy.stop=energy`: --set stop_energy=ENERGY --set min_evaluations=1, as its message says.
    """
    from ebt_policy.eval.failures.calibrate import calibrate as run
    from ebt_policy.monitoring.signals import DEFAULT_SIGNALS

    run_folder = (Path(policy) / "checkpoints").is_dir()
    path = output or (Path(policy) if run_folder else Path("runs")) / "calibration.json"
    made = run(
        policy,
        path,
        env=env,
        dataset=dataset,
        root=root,
        episodes=episodes,
        seed=seed,
        alpha=alpha,
        signals=signals or DEFAULT_SIGNALS,
        max_evaluations=max_evaluations,
        n_action_steps=n_action_steps,
        overrides=key_values(overrides),
        processes=processes,
        device=device,
    )
    low, high = made.false_alarms
    print(
        f"Alarm above {made.threshold:.3f}: rank {made.rank} of {len(made.scores)} episodes. With this calibration the "
        f"rate of false alarms lies between {low:.1%} and {high:.1%} (90 %), {made.alpha:.0%} on average over "
        f"calibrations. It holds for the first {made.covers} of an episode. Written to {path}."
    )


def trace(
    runs: Positional[tuple[Path, ...]],
    viewer: Literal["html", "rerun"] = "html",
    save: Path | None = None,
) -> None:
    """Show recorded episodes: video, energy, quantile, inner steps, alarms and disturbances on one timeline.

    Record some first: ebt-policy eval --policy shipped:pusht_keypoints_ebt --episodes 8 --record 8 --output runs/eval

    --viewer html writes RUN/index.html, a list of all episodes with false alarms and missed failures first. It links to a page
    for each episode; the pages work offline. With several runs, episodes of the same seed are shown side by side.
    --viewer rerun shows one episode in the rerun viewer (pip install 'lerobot_policy_ebt[viz]').

    Args:
        runs: One or more folders written by `eval --record`, or the timeline (JSON) of one episode.
        viewer: html for pages in a browser, rerun for the rerun viewer.
        save: With --viewer rerun: write this file (.rrd) instead of opening the viewer.
    """
    if not runs:
        raise UserError("Which run? Expected a folder of eval --record, for example runs/eval.")
    first: Path = next(iter(runs))
    if viewer == "rerun":
        if len(runs) > 1:
            raise UserError("The rerun viewer shows one run; leave out --viewer rerun to compare several.")
        from ebt_policy.eval.report.rerun_sink import trace as in_rerun

        in_rerun(first, save)
        if save:
            print(f"Recording: {save}. Look at it with: rerun {save}")
        return
    if save:
        raise UserError("--save is for --viewer rerun; pages are written into RUN itself.")
    from ebt_policy.eval.report.gallery import write_pages
    from ebt_policy.eval.report.side_by_side import write_side_by_side

    print(f"Open in a browser: {write_pages(first) if len(runs) == 1 else write_side_by_side(runs)}")


def serve(
    policy: str,
    host: str = "127.0.0.1",
    port: int = 8700,
    token_file: Path | None = None,
    device: str = "cpu",
    max_evaluations: int | None = None,
    n_action_steps: int | None = None,
    fps: float | None = None,
    heartbeat: float = 2.0,
    seed: int = 0,
    calibration: Path | None = None,
    overrides: Overrides = (),
) -> None:
    """Run a policy as a server, for an arm on another computer. The client needs neither torch nor LeRobot.

    In the client: from ebt_policy.hardware.remote.client import RemotePolicy
        with RemotePolicy("ws://127.0.0.1:8700") as policy:
            reply = policy.decide({"observation.state": state}, deadline_s=0.2)  # reply.actions (n, A)

    One client controls at a time. Messages are checked, limited in size, and never executed. If the server does not answer,
    the client holds the arm; the safety filter runs in the client. Without a token only this computer can connect. The
    connection is not encrypted: in a network with other users keep 127.0.0.1, and run
    `ssh -L 8700:127.0.0.1:8700 THIS_COMPUTER` on the arm's computer.

    Args:
        policy: A run or checkpoint folder, USER/NAME[@REVISION] on the Hub, or shipped:NAME.
        host: Address to listen on; 0.0.0.0 for every network, which needs a token.
        port: Port to listen on; 0 for any free one.
        token_file: File with the secret that clients must send (default: the environment variable EBT_POLICY_TOKEN).
            Make one: openssl rand -hex 32 > token
        device: Torch device of the policy.
        max_evaluations: Largest number of network evaluations for one decision.
        n_action_steps: Number of actions in each reply (default: as trained).
        fps: Rate of the policy's training data, Hz; clients with another rate are refused.
        heartbeat: Seconds without a message after which a side considers the other one dead.
        seed: Seed of the policy's noise; every episode starts from it.
        calibration: File made by `ebt-policy calibrate`. Replies then contain a score and whether it is an alarm. The rate of
            false alarms holds for a client that asks again when all actions of a reply are executed.
        overrides: Options of the policy, e.g. --set start=zero
    """
    from ebt_policy.hardware.planners.served import serve as run

    run(
        policy,
        host,
        port,
        token_file,
        device=device,
        max_evaluations=max_evaluations,
        n_action_steps=n_action_steps,
        fps=fps,
        heartbeat_s=heartbeat,
        seed=seed,
        overrides=key_values(overrides),
        calibration=calibration,
    )
