"""Commands of `ebt-policy` that measure: demo, eval, bench, energy."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ebt_policy.cli.options import Overrides, config_file, key_values
from ebt_policy.errors import UserError


def demo(
    task: Literal["pusht", "pusht_pixels", "lift", "transfer_cube", "metaworld"] = "pusht",
    episodes: int = 50,
    seed: int = 100_000,
    output: Path | None = None,
    processes: int | None = None,
) -> None:
    """EBT and Diffusion Policy side by side on PushT, in under three minutes; no dataset, no network.

    Prints the comparison and writes a report with videos and energy traces. pusht_pixels shows EBT alone, from a camera;
    lift (robosuite) and transfer_cube (ALOHA) too, in MuJoCo: they need the extra of that name, and OpenGL for the videos.
    metaworld (extra metaworld) shows one policy at ten tasks, each told by a sentence.

    Args:
        task: Which of the shipped policies to watch.
        episodes: Episodes for each policy, on the same seeds.
        seed: Seed of the first episode; the others count up from it.
        output: Folder for the report (default: runs/demo, or runs/demo_TASK).
        processes: Worker processes (default: one for each core).
    """
    from ebt_policy.eval.benchmarks.demo import demo as run

    folder = output or Path("runs/demo" if task == "pusht" else f"runs/demo_{task}")
    run(episodes, seed, folder, task=task, processes=processes)


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
    task: str = "",
    overrides: Overrides = (),
) -> None:
    """Success rate, coverage, function evaluations and latency of one policy on fixed seeds.

    Args:
        policy: A run or checkpoint folder, USER/NAME[@REVISION] on the Hub, or shipped:NAME (shipped:list names what comes
            with the package).
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
        ladder: Recovery actions after an alarm, in order: hold, ask.
        processes: Worker processes (default: one for each core). The result does not depend on it.
        device: Torch device of the policy.
        task: The sentence that the policy is told (default: that of the environment).
        overrides: Options of the policy, e.g. --set start=zero --set sampler=ddim:10
    """
    from ebt_policy.eval.rollout.evaluate import evaluate as run
    from ebt_policy.inference.checkpoints import list_shipped

    if policy in ("shipped:", "shipped:list"):
        print("\n".join(f"shipped:{name}" for name in list_shipped()))
        return
    if output and not record:
        raise UserError(
            "--output is the folder for recorded episodes: say how many with --record, e.g. --record 8."
        )
    if ladder and not calibration:
        raise UserError("--ladder acts on alarms: say when one is raised with --calibration FILE.")
    from ebt_policy.monitoring.calibration import read_calibration
    from ebt_policy.monitoring.learned_signals import beside
    from ebt_policy.monitoring.recovery import Ladder

    folder = output or Path("runs/eval")
    thresholds = read_calibration(calibration) if calibration else None
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
        nets=beside(calibration) if calibration else None,
        ladder=Ladder(actions=ladder) if ladder else None,
        task=task,
    )
    low, high = result.success_ci95
    print(
        f"success {result.success_rate:.3f} (95 % {low:.3f} to {high:.3f}, {episodes} episodes), "
        f"coverage {result.mean_max_coverage:.3f} max, {result.mean_final_coverage:.3f} final"
    )
    if spared := result.spared():
        print(spared)
    for one in result.tasks:
        low, high = one.success_ci95
        print(f"  {one.success_rate:.2f} ({low:.2f} to {high:.2f}, {one.episodes} episodes)  {one.task}")
    latency = result.latency_ms
    print(
        f"{result.evaluations_per_decision:.2f} function evaluations a decision"
        + (
            f", latency {latency['p50']:.1f} ms median, {latency['p95']:.1f} ms 95th percentile"
            + (", without monitoring" if calibration else "")
            if latency
            else ""
        )
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


def bench(
    config: Positional[str],
    output: Path | None = None,
    rows: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    processes: int | None = None,
    ray: str | None = None,
    trainings: int = 1,
    plan: bool = False,
) -> None:
    """A table of policies: trains what is missing, evaluates all on the same seeds, writes report.md and .html.

    Files of another `kind` measure something else: `monitor`, failure detectors on one policy's episodes; `server`, fuzzing of the
    policy server and its latency; `faults`, how the control loop reacts to each fault; `arm`, a whole deployment on this
    machine; `takeover`, what a policy learns from an operator, by when he takes over; `latency`, what a slow policy costs (bench_monitor,
    bench_server, bench_faults, bench_arm, bench_takeover, bench_latency).

    Args:
        config: A bench file, or the name of a shipped one, e.g. bench_pusht
        output: Folder (default: runs/<config>). An interrupted bench goes on where it stopped.
        rows: Names of the only rows to do, without a report: several processes can share the work.
        tasks: Likewise, the only environments of a bench that has several.
        processes: Worker processes for the episodes.
        ray: Run the episodes on this Ray cluster instead (training stays here), with the same results: auto, host:port or
            ray://host:port; local starts one on this machine.
        trainings: Policies trained at once, each in a process of its own. A small policy leaves most of a GPU idle: 8 to 16 of them fill one.
        plan: Train and evaluate nothing: print what is left, with parameters, FLOPs and an estimate of the time (benches of policies).
    """
    from ebt_policy.eval.benchmarks.bench_file import bench_kind

    file = config_file(config, "bench file", prefix="bench_")
    kind = bench_kind(file)
    if plan and kind is not None:
        raise UserError(f"{file}: --plan is for benches of policies, not for one of kind '{kind}'.")
    if kind == "monitor":
        from ebt_policy.eval.benchmarks.monitor_bench import monitor_bench

        print(monitor_bench(file, output, processes, tasks))
        return
    if kind == "server":
        from ebt_policy.eval.benchmarks.served_bench import server_bench

        print(server_bench(file, output))
        return
    if kind == "faults":
        from ebt_policy.hardware.emulation.fault_bench import fault_bench

        print(fault_bench(file, output))
        return
    if kind == "arm":
        from ebt_policy.eval.benchmarks.arm_bench import arm_bench

        print(arm_bench(file, output))
        return
    if kind == "takeover":
        from ebt_policy.eval.benchmarks.takeover_bench import takeover_bench

        print(takeover_bench(file, output, processes))
        return
    if kind == "latency":
        from ebt_policy.eval.benchmarks.latency_bench import latency_bench

        print(latency_bench(file, output, tasks, rows))
        return
    if kind is not None:
        raise UserError(
            f"{file}: no bench has the kind '{kind}'. Kinds: monitor, server, faults, arm, takeover, latency; none for policies."
        )
    from ebt_policy.eval.benchmarks.bench import bench as run
    from ebt_policy.eval.rollout.ray_backend import Cluster

    cluster = Cluster(ray, processes) if ray else None
    run(
        file,
        output,
        rows=rows,
        tasks=tasks,
        processes=processes,
        cluster=cluster,
        trainings=trainings,
        plan=plan,
    )


def energy(
    policy: str,
    dataset: str | None = None,
    root: Path | None = None,
    noise: float | None = None,
    sentences: bool = False,
    json: Path | None = None,
) -> None:
    """Compare the energy of expert chunks with that of the same chunks with noise, on episodes that were not trained on.

    With --sentences: with that of the same chunks under the sentences of other tasks. Episodes that another sentence explains
    better than their own are listed: what was done in them may not be what their sentence says.

    Args:
        policy: A run or checkpoint folder, USER/NAME[@REVISION] on the Hub, or shipped:NAME.
        dataset: Repo id (default: what the policy was trained on).
        root: A local folder instead of LeRobot's cache.
        noise: Standard deviation of the noise, in normalised action units (default: 0.15; with --sentences none).
        sentences: Compare sentences, for a policy that is told its task.
        json: Where to write the figures.
    """
    if sentences:
        from ebt_policy.eval.benchmarks.energy_sentences import sentence_energy

        sentence_energy(policy, dataset, root, noise=noise or 0.0, json_path=json)
        return
    from ebt_policy.eval.benchmarks.energy_quality import energy_quality

    energy_quality(policy, dataset, root, noise=0.15 if noise is None else noise, json_path=json)
