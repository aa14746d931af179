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
    processes: int | None = None,
    device: str = "cpu",
) -> None:
    """When is the policy's score an alarm? Sets a threshold from successful episodes, with a guarantee.

    Of new episodes like them, at most the share alpha alarms, on average over calibrations (split conformal prediction).
    The file belongs to this checkpoint and these options, and is refused for any other.

    Args:
        policy: A run or checkpoint folder, USER/NAME[@REVISION] on the Hub, or shipped:NAME.
        env: Environment to run fresh episodes in.
        dataset: Or: repo id of recorded successful episodes, for instance of your arm.
        root: A local folder of the dataset instead of LeRobot's cache.
        output: Where to write the calibration (default: runs/calibration.json).
        episodes: How many to run; those that fail do not count.
        seed: Seed of the first.
        alpha: Rate of false alarms per successful episode.
        signals: What the score is made of (default: energy overlap acceleration stillness). `rnd`, how unlike the demonstrations
            what is seen is, finds more failures where it was measured; it needs the dataset that the policy was trained on.
        max_evaluations: Budget of function evaluations for each decision.
        processes: Worker processes.
        device: Torch device of the policy.
    """
    from ebt_policy.eval.failures.calibrate import calibrate as run
    from ebt_policy.monitoring.signals import DEFAULT_SIGNALS

    path = output or Path("runs/calibration.json")
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
        processes=processes,
        device=device,
    )
    low, high = made.false_alarms
    print(
        f"Alarm above {made.threshold:.3f}: rank {made.rank} of {len(made.scores)} episodes. With this calibration the "
        f"rate of false alarms lies between {low:.1%} and {high:.1%} (90 %), {made.alpha:.0%} on average over "
        f"calibrations. Written to {path}."
    )


def trace(
    runs: Positional[tuple[Path, ...]],
    viewer: Literal["html", "rerun"] = "html",
    save: Path | None = None,
) -> None:
    """Watch recorded episodes: video, energy, quantile, inner steps, alarms and disturbances on one timeline.

    Record some first: ebt-policy eval --policy shipped:pusht_keypoints_ebt --episodes 8 --record 8 --output runs/eval

    html: RUN/index.html lists all episodes, the worst false alarms and misses first, and links to a page for each that
    needs neither network nor server. Of several runs the page shows the same seeds side by side, in step. rerun: one episode in
    the rerun viewer (pip install 'lerobot_policy_ebt[viz]').

    Args:
        runs: A folder of `eval --record`, or the timeline (JSON) of one episode in it; or several such folders.
        viewer: Pages for a browser, or the rerun viewer.
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
    """Decide for an arm that another program, or another computer, moves. Its side needs neither torch nor LeRobot.

    There: from ebt_policy.hardware.remote.client import RemotePolicy
        with RemotePolicy("ws://127.0.0.1:8700") as policy:
            reply = policy.decide({"observation.state": state}, deadline_s=0.2)  # reply.actions (n, A)

    One controller at a time. Messages are typed, checked and of bounded size; none can run code here. The client holds the
    arm when this server falls silent; keep the safety filter on its side. Only this computer can connect, unless you give a
    token. What is sent is not encrypted: over a network that others use, stay on 127.0.0.1 and go through
    `ssh -L 8700:127.0.0.1:8700 THIS_COMPUTER` from the arm's computer.

    Args:
        policy: A run or checkpoint folder, USER/NAME[@REVISION] on the Hub, or shipped:NAME.
        host: Address to listen on; 0.0.0.0 for every network, which needs a token.
        port: Port to listen on; 0 for any free one.
        token_file: File with the secret that clients must show (default: the environment variable EBT_POLICY_TOKEN).
            Make one: openssl rand -hex 32 > token
        device: Torch device of the policy.
        max_evaluations: Budget of function evaluations for each decision.
        n_action_steps: Actions in each reply (default: as trained).
        fps: Ticks a second that the policy was trained at; clients with another rate are then refused.
        heartbeat: Seconds of silence after which either side counts as dead.
        seed: Of the policy's noise, begun again with each episode.
        calibration: Watch for failure with the thresholds in this file of `ebt-policy calibrate`: replies then have a score
            and whether it is an alarm. The rate of false alarms holds for a client that decides each time a reply's
            actions are used up.
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
