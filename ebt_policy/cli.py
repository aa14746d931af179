"""`ebt-policy`: one command, a sub-command for each thing that one comes to do.

Nothing heavy is imported before a sub-command runs, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from ebt_policy.errors import UserError

Overrides = Annotated[
    tuple[str, ...],
    UseAppendAction,
    arg(name="set", aliases=["-s"], metavar="KEY=VALUE", help="Any option by its dotted name; repeatable."),
]


def demo(
    task: Literal["pusht", "lift", "transfer_cube"] = "pusht",
    episodes: int = 50,
    seed: int = 100_000,
    output: Path | None = None,
    open_browser: bool = False,
    processes: int | None = None,
) -> None:
    """EBT and Diffusion Policy side by side on PushT, in under three minutes; no dataset, no network.

    Prints the comparison and writes a report with videos and energy traces. lift (robosuite) and transfer_cube (ALOHA)
    show EBT alone, in MuJoCo: they need the extra of that name, and OpenGL for the videos.

    Args:
        task: Which of the shipped policies to watch.
        episodes: Episodes for each policy, on the same seeds.
        seed: Seed of the first episode; the others count up from it.
        output: Folder for the report (default: runs/demo, or runs/demo_TASK).
        open_browser: Show the report when it is done.
        processes: Worker processes (default: one for each core).
    """
    from ebt_policy.eval.demo import demo as run

    folder = output or Path("runs/demo" if task == "pusht" else f"runs/demo_{task}")
    run(episodes, seed, folder, task=task, processes=processes, open_browser=open_browser)


def train(
    config: str = "pusht_keypoints",
    output: Path | None = None,
    resume: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    overrides: Overrides = (),
) -> None:
    """Train a policy (ebt, matched_baseline, diffusion, act, ...) on a LeRobot dataset.

    Args:
        config: Name of a shipped recipe, or path of a YAML file.
        output: Run folder (default: runs/<config>). Holds recipe, versions, logs and checkpoints.
        resume: Go on with the run in that folder.
        steps: Optimiser steps.
        seed: Seed of the weights, the noise and the order of the data.
        overrides: e.g. --set policy.type=diffusion --set dataset.repo_id=me/my_arm --set batch_size=64
    """
    from ebt_policy.recipe import load_recipe
    from ebt_policy.train import train as run

    values = key_values(overrides)
    values |= {k: v for k, v in {"steps": steps, "seed": seed}.items() if v is not None}
    folder = output or Path("runs") / Path(config).stem
    print(
        f"Policy: {run(load_recipe(config, values), folder, resume=resume)}/checkpoints/last/pretrained_model"
    )


def envs(names: Positional[tuple[str, ...]] = (), seconds: float = 3.0, json: Path | None = None) -> None:
    """The environments that there are, and how many ticks a second each makes here.

    Args:
        names: Only these (default: all).
        seconds: CPU time for each.
        json: Where to write the figures.
    """
    from ebt_policy.envs.overview import overview

    overview(names, seconds, json)


def collect(
    task: Positional[str],
    episodes: int = 200,
    output: Path | None = None,
    repo_id: str | None = None,
    seed: int = 0,
    disturbance: float = 0.1,
    cameras: tuple[str, ...] = (),
    image_size: tuple[int, int] = (96, 96),
    processes: int | None = None,
) -> None:
    """Demonstrations of a simulated task by its scripted expert, as a LeRobot dataset. Only successes are kept.

    The same seed gives the same dataset, however many processes and interruptions it took.

    Args:
        task: An environment with an expert, e.g. robosuite_lift.
        episodes: Successful demonstrations wanted.
        output: A new folder (default: where LeRobot looks for repo_id).
        repo_id: Name of the dataset (default: local/TASK).
        seed: Seed of the first attempt; the others count up from it.
        disturbance: Noise on what the expert does (not on what is recorded), in parts of the action's size: the
            demonstrations then show corrections.
        cameras: Names of cameras whose pictures are kept as videos (default: none), e.g. agentview
        image_size: Height and width of the pictures, pixels.
        processes: Worker processes (default: one for each core).
    """
    from ebt_policy.envs.collect import Collection
    from ebt_policy.envs.collect import collect as run
    from ebt_policy.eval.parallel import usable_cores

    if episodes < 1:
        raise UserError(f"episodes must be at least 1, found {episodes}.")
    name = repo_id or f"local/{task}"
    folder = output or _lerobot_folder(name)
    wanted = Collection(task, episodes, seed, disturbance, cameras, image_size)
    record = run(wanted, folder, name, processes or usable_cores())
    print(f"{record['successes']} demonstrations of {record['attempts']} attempts: {folder} (repo id {name})")


def convert(
    format: Positional[Literal["robomimic"]],
    file: Positional[Path],
    output: Path | None = None,
    repo_id: str | None = None,
    env: str | None = None,
    keep_failed: bool = False,
) -> None:
    """Demonstrations in another format as a LeRobot dataset. Only those that end in success are kept.

    robomimic: HDF5 files of robomimic and robosuite. Recorded states are replayed in the simulator where the file
    lacks observations, and to see how it ends. Selections (mask/...) go to meta/filter_keys.json; train and valid
    become splits where they share out all demonstrations.

    Args:
        format: What the file is.
        file: Demonstrations, e.g. robomimic's low_dim_v15.hdf5 or demo_v15.hdf5
        output: A new folder (default: where LeRobot looks for repo_id).
        repo_id: Name of the dataset (default: local/FILE without its ending).
        env: The environment whose features are wanted, for a real robot or a task by another name; the file must
            then hold the observations (default: the file's own).
        keep_failed: Keep demonstrations that do not end in success.
    """
    from ebt_policy.envs.convert_robomimic import convert as run

    name = repo_id or f"local/{file.stem}"
    folder = output or _lerobot_folder(name)
    record = run(file, folder, name, env=env, keep_failed=keep_failed)
    for warning in record["warnings"]:
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"{len(record['kept'])} of {record['attempted']} demonstrations: {folder} (repo id {name})")


def evaluate(
    policy: str,
    env: str = "pusht_keypoints",
    episodes: int = 500,
    seed: int = 100_000,
    max_evaluations: int | None = None,
    n_action_steps: int | None = None,
    json: Path | None = None,
    parquet: Path | None = None,
    record: int = 0,
    output: Path | None = None,
    calibration: Path | None = None,
    ladder: tuple[str, ...] = (),
    processes: int | None = None,
    device: str = "cpu",
    overrides: Overrides = (),
) -> None:
    """Success rate, coverage, function evaluations and latency of one policy on fixed seeds.

    Args:
        policy: A run or checkpoint folder, or shipped:NAME (shipped:list names what comes with the package).
        env: An environment; `ebt-policy envs` lists them.
        episodes: How many, on seeds counting up from --seed.
        seed: Seed of the first episode.
        max_evaluations: Budget of function evaluations for each decision.
        n_action_steps: Ticks executed of each chunk (default: as trained).
        json: Where to write the figures.
        parquet: Where to write one row for each episode, with its traces.
        record: Keep video and timeline of the first so many episodes, for `ebt-policy trace` (about 60 MB of memory
            each while it runs).
        output: Folder for what --record keeps (default: runs/eval).
        calibration: Watch for failure, with the thresholds in this file of `ebt-policy calibrate`.
        ladder: What to do about alarms, rung by rung: think, sample, shorten, hold, ask.
        processes: Worker processes (default: one for each core). The result does not depend on it.
        device: Torch device of the policy.
        overrides: Options of the policy, e.g. --set start=zero --set sampler=ddim:10
    """
    from ebt_policy.eval.evaluate import evaluate as run
    from ebt_policy.eval.policies import list_shipped

    if policy in ("shipped:", "shipped:list"):
        print("\n".join(f"shipped:{name}" for name in list_shipped()))
        return
    if output and not record:
        raise UserError(
            "--output is the folder for recorded episodes: say how many with --record, e.g. --record 8."
        )
    if ladder and not calibration:
        raise UserError("--ladder acts on alarms: say when one is raised with --calibration FILE.")
    from ebt_policy.calibration import read_calibration
    from ebt_policy.eval.calibrate import transition_folder
    from ebt_policy.recovery import Ladder

    folder = output or Path("runs/eval")
    thresholds = read_calibration(calibration) if calibration else None
    transition = None
    if calibration and thresholds and "transition" in thresholds.statistic.signals:
        transition = transition_folder(calibration)
    result = run(
        policy,
        env,
        episodes,
        seed,
        max_evaluations=max_evaluations,
        n_action_steps=n_action_steps,
        overrides=key_values(overrides),
        processes=processes,
        device=device,
        record=range(seed, seed + record),
        json_path=json,
        parquet_path=parquet,
        episodes_folder=folder / "episodes" if record else None,
        calibration=thresholds,
        transition=transition,
        ladder=Ladder(rungs=ladder) if ladder else None,
    )
    low, high = result.success_ci95
    print(
        f"success {result.success_rate:.3f} (95 % {low:.3f} to {high:.3f}, {episodes} episodes), "
        f"coverage {result.mean_max_coverage:.3f} max, {result.mean_final_coverage:.3f} final"
    )
    print(
        f"{result.evaluations_per_decision:.2f} function evaluations a decision, latency "
        f"{result.latency_ms['p50']:.1f} ms median, {result.latency_ms['p95']:.1f} ms 95th percentile"
    )
    if calibration:
        alarmed = [any(r.alarm for r in row.watch.readings) for row in result.rows]
        failed = [not row.success for row in result.rows]
        false = sum(a and not f for a, f in zip(alarmed, failed, strict=True))
        print(
            f"alarms in {sum(alarmed) - false} of {sum(failed)} failures and in {false} of "
            f"{episodes - sum(failed)} successes"
        )
    if record:
        print(f"Recorded: {folder}/episodes. Look at them with: ebt-policy trace {folder}")


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
        policy: A run or checkpoint folder, or shipped:NAME.
        env: Environment to run fresh episodes in.
        dataset: Or: repo id of recorded successful episodes, for instance of your arm.
        root: A local folder of the dataset instead of LeRobot's cache.
        output: Where to write the calibration (default: runs/calibration.json).
        episodes: How many to run; those that fail do not count.
        seed: Seed of the first.
        alpha: Rate of false alarms per successful episode.
        signals: What the score is made of (default: energy overlap acceleration stillness).
        max_evaluations: Budget of function evaluations for each decision.
        processes: Worker processes.
        device: Torch device of the policy.
    """
    from ebt_policy.eval.calibrate import calibrate as run
    from ebt_policy.signals import DEFAULT_SIGNALS

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
    run: Positional[Path],
    viewer: Literal["html", "rerun"] = "html",
    save: Path | None = None,
) -> None:
    """Watch recorded episodes: video, energy, quantile, inner steps, alarms and disturbances on one timeline.

    Record some first: ebt-policy eval --policy shipped:pusht_keypoints_ebt --episodes 8 --record 8 --output runs/eval

    html: RUN/index.html lists all episodes, the worst false alarms and misses first, and links to a page for each that
    needs neither network nor server. rerun: one episode in the rerun viewer (pip install 'lerobot_policy_ebt[viz]').

    Args:
        run: A folder of `eval --record`, or the timeline (JSON) of one episode in it.
        viewer: Pages for a browser, or the rerun viewer.
        save: With --viewer rerun: write this file (.rrd) instead of opening the viewer.
    """
    if viewer == "rerun":
        from ebt_policy.eval.rerun_sink import trace as in_rerun

        in_rerun(run, save)
        if save:
            print(f"Recording: {save}. Look at it with: rerun {save}")
        return
    from ebt_policy.eval.gallery import write_pages

    if save:
        raise UserError("--save is for --viewer rerun; pages are written into RUN itself.")
    print(f"Open in a browser: {write_pages(run)}")


def bench(
    config: Positional[Path],
    output: Path | None = None,
    resume: bool = True,
    rows: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    processes: int | None = None,
    backend: Literal["processes", "ray"] = "processes",
    address: str = "local",
) -> None:
    """A table of policies: trains what is missing, evaluates all on the same seeds, writes report.md and .html.

    A file of kind `monitor` compares failure detectors on one policy's episodes instead (configs/bench_monitor.yaml).

    Args:
        config: A bench file, e.g. configs/bench_pusht.yaml
        output: Folder (default: runs/<config>). An interrupted bench goes on where it stopped.
        resume: Keep what is there and still fits.
        rows: Names of the only rows to do, without a report: several processes can share the work.
        tasks: Likewise, the only environments of a bench that has several.
        processes: Worker processes for the episodes.
        backend: Who runs the episodes: processes of this machine, or a Ray cluster (training stays here). The results
            are the same.
        address: Of the Ray cluster: auto, host:port or ray://host:port; local starts one on this machine.
    """
    from ebt_policy.eval.monitor_config import is_monitor_bench

    if is_monitor_bench(config):
        from ebt_policy.eval.monitor_bench import monitor_bench

        print(monitor_bench(config, output, processes))
        return
    from ebt_policy.eval.bench import bench as run
    from ebt_policy.eval.ray_backend import Cluster

    cluster = Cluster(address, processes) if backend == "ray" else None
    run(config, output, resume, rows=rows, tasks=tasks, processes=processes, cluster=cluster)


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
    overrides: Overrides = (),
) -> None:
    """Decide for an arm that another program, or another computer, moves. Its side needs neither torch nor LeRobot.

    There: from ebt_policy.hardware.client import RemotePolicy
        with RemotePolicy("ws://127.0.0.1:8700") as policy:
            reply = policy.decide({"observation.state": state}, deadline_s=0.2)  # reply.actions (n, A)

    One controller at a time. Messages are typed, checked and of bounded size; none can run code here. The client holds the
    arm when this server falls silent; keep the safety filter on its side. Only this computer can connect, unless you give a
    token. What is sent is not encrypted: over a network that others use, stay on 127.0.0.1 and go through
    `ssh -L 8700:127.0.0.1:8700 THIS_COMPUTER` from the arm's computer.

    Args:
        policy: A run or checkpoint folder, or shipped:NAME.
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
        overrides: Options of the policy, e.g. --set start=zero
    """
    from ebt_policy.eval.served import serve as run

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
    )


def doctor(
    dataset: Positional[str],
    root: Path | None = None,
) -> None:
    """Looks for faults in a dataset before they cost a training: each finding says where, what and what to do.

    Args:
        dataset: Repo id, e.g. lerobot/pusht_keypoints
        root: A local folder instead of LeRobot's cache.
    """
    from ebt_policy.doctor import doctor as run
    from ebt_policy.doctor import print_findings

    findings = run(dataset, root)
    print_findings(findings)
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)


def export(policy: str, output: Path) -> None:
    """Copy a checkpoint with half-precision weights, to ship or upload it.

    Args:
        policy: A run or checkpoint folder.
        output: A new folder.
    """
    from ebt_policy.eval.policies import find_checkpoint
    from ebt_policy.export import export as run

    print(run(find_checkpoint(policy), output))


def energy(
    policy: str,
    dataset: str | None = None,
    root: Path | None = None,
    noise: float = 0.15,
    json: Path | None = None,
) -> None:
    """Does the energy mean something? Expert chunks against the same with noise, on held-out episodes.

    Args:
        policy: A run or checkpoint folder, or shipped:NAME.
        dataset: Repo id (default: what the policy was trained on).
        root: A local folder instead of LeRobot's cache.
        noise: Standard deviation of the noise, in normalised action units.
        json: Where to write the figures.
    """
    from ebt_policy.eval.energy_quality import energy_quality

    energy_quality(policy, dataset, root, noise=noise, json_path=json)


def throughput(config: str = "pusht_keypoints", json: Path | None = None) -> None:
    """Samples per second of the data path and of training, beside LeRobot's own, in one run.

    Args:
        config: Name of a shipped recipe, or path of a YAML file.
        json: Where to write the figures.
    """
    from ebt_policy.eval.throughput import throughput as run

    run(config, json_path=json)


def _lerobot_folder(repo_id: str) -> Path:
    """Where LeRobot looks for a dataset."""
    from lerobot.utils.constants import HF_LEROBOT_HOME

    return HF_LEROBOT_HOME / repo_id


def key_values(items: tuple[str, ...]) -> dict[str, object]:
    """("policy.width=256",) -> {"policy.width": 256}; values are read as YAML. Raises UserError without "="."""
    import yaml

    pairs = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--set expects KEY=VALUE, found '{item}'.")
        pairs[key.strip()] = yaml.safe_load(value)
    return pairs


def main() -> None:
    """Entry point. Exit status 1 for a mistake that the user can correct, 130 for Ctrl-C."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    commands: dict[str, Callable[..., Any]] = {
        "demo": demo,
        "envs": envs,
        "collect": collect,
        "convert": convert,
        "train": train,
        "eval": evaluate,
        "trace": trace,
        "calibrate": calibrate,
        "bench": bench,
        "serve": serve,
        "doctor": doctor,
        "energy": energy,
        "export": export,
        "throughput": throughput,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="ebt-policy",
            description="Energy-based transformer policies for LeRobot: train, measure, deploy, watch.",
        )
    except UserError as error:
        print(f"ebt-policy: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":  # accelerate launch -m ebt_policy.cli ...
    main()
