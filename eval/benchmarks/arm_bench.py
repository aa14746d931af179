"""`ebt-policy bench configs/bench_arm.yaml`: measures a deployment on this machine, with simulated arms.

    <output>/report.md, <part>/part.json

Parity: success of `deploy` on the simulated arm against `eval`, same task and seeds, in simulated and in real time. Thinking:
stopping on the calibrated energy against fixed budgets. Punctuality: see `arm_punctuality`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.eval.benchmarks.arm_config import ArmBench, read_arm_bench
from ebt_policy.eval.report.report import Table
from ebt_policy.eval.statistics.intervals import paired_success_difference, wilson
from ebt_policy.hardware.control.episode import Outcome
from ebt_policy.provenance import run_record, write_atomic, write_json


def arm_bench(config: Path, output: Path | None = None) -> str:
    """Run the parts named in the file; write and return the report. Parts that were measured before with the same options are kept."""
    bench = read_arm_bench(config)
    folder = output or Path("runs") / config.stem
    measure = {"punctuality": _punctuality, "parity": _parity, "thinking": _thinking}
    options = dataclasses.asdict(dataclasses.replace(bench, parts=()))
    parts = []
    for name in bench.parts:
        file = folder / name / "part.json"
        done = json.loads(file.read_text()) if file.exists() else {}
        if done.get("bench") != json.loads(json.dumps(options)):
            table, figures = measure[name](bench, folder / name)
            done = run_record() | {"bench": options, "markdown": table.markdown(), "figures": figures}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, done)
        parts.append(done["markdown"])
    text = "\n".join(parts)
    write_atomic(folder / "report.md", text)
    return text


def _parity(bench: ArmBench, folder: Path) -> tuple[Table, Any]:
    from ebt_policy.eval.rollout.parallel import run_episodes
    from ebt_policy.inference.runner import load_runner

    seeds = range(bench.seed, bench.seed + bench.episodes)
    evaluated = [
        episode.success
        for episode in run_episodes(
            lambda: load_runner(bench.policy), bench.task, seeds, processes=1, title="eval"
        )
    ]
    simulated = _solved(_deployed(bench, folder / "simulated", bench.episodes))
    real = _solved(_deployed(bench, folder / "real", bench.real_episodes, realtime=True))
    rows = [
        ("eval", *_rate(evaluated), ""),
        ("deploy, simulated time", *_rate(simulated), _difference(simulated, evaluated)),
        ("deploy, real time", *_rate(real), _difference(real, evaluated[: len(real)])),
    ]
    return (
        Table(
            ("Same seeds", "Success", "n", "Difference from eval, paired"),
            tuple(rows),
            f"Parity on {bench.task}",
            ("Simulated time stops while the policy computes, as in eval; real time does not.",),
        ),
        {"eval": evaluated, "simulated": simulated, "real": real},
    )


def _thinking(bench: ArmBench, folder: Path) -> tuple[Table, Any]:
    from ebt_policy.eval.failures.calibrate import calibrate
    from ebt_policy.monitoring.calibration import read_calibration

    file = folder / "calibration.json"
    if not file.exists():
        calibrate(
            bench.policy,
            file,
            env=bench.task,
            episodes=bench.calibration_episodes,
            seed=bench.calibration_seed,
            processes=1,
        )
    settings: dict[str, dict[str, Any]] = {
        f"{budget} evaluations": {"max_evaluations": budget} for budget in bench.budgets
    }
    # As --policy.stop=energy, but without alarms, which would need a calibration of their own.
    rule = {"stop_energy": read_calibration(file).usual_energy, "min_evaluations": 1}
    settings["1 where the energy is as usual, else 2"] = {"set": rule}
    rows, figures = [], {}
    for name, options in settings.items():
        outcomes = _deployed(bench, folder / name.replace(" ", "_"), bench.episodes, **options)
        thinking = 1e3 * np.concatenate([outcome.thinking for outcome in outcomes])
        evaluations = float(
            np.average([o.evaluations for o in outcomes], weights=[o.plans for o in outcomes])
        )
        median, late = np.percentile(thinking, [50, 99])
        rows.append((name, *_rate(_solved(outcomes)), f"{evaluations:.2f}", f"{median:.1f} / {late:.1f}"))
        figures[name] = {
            "success": _solved(outcomes),
            "evaluations": evaluations,
            "thinking_ms": [float(median), float(late)],
        }
    return (
        Table(
            ("Thinking", "Success", "n", "Evaluations a plan", "ms a plan, p50 / p99"),
            tuple(rows),
            f"Thinking as long as the energy says, {bench.task}",
            ("On the simulated arm in simulated time, the same seeds, one after the other on one machine.",),
        ),
        figures,
    )


def _punctuality(bench: ArmBench, folder: Path) -> tuple[Table, Any]:
    from ebt_policy.eval.benchmarks.arm_punctuality import measure

    lines = measure(folder, bench.hz, bench.seconds, print)
    rows = []
    for line in lines:
        late, outcome = line.outcome.punctuality, line.outcome
        rows.append(
            (
                line.name,
                str(late.ticks),
                f"{1e3 * late.jitter.median:.2f} / {1e3 * late.jitter.p99:.2f} / {1e3 * late.jitter.most:.2f}",
                f"{late.missed / max(late.ticks + late.missed, 1):.3%}",
                f"{1e3 * late.age.median:.0f} / {1e3 * late.age.p99:.0f}",
                f"{outcome.plans} / {outcome.no_plans}",
                f"{1e3 * float(np.median(outcome.thinking or [np.nan])):.0f}",
            )
        )
    return (
        Table(
            (
                f"{bench.hz:.0f} Hz",
                "Ticks",
                "Jitter, ms: p50 / p99 / most",
                "Missed ticks",
                "Command age, ms: p50 / p99",
                "Plans / none",
                "Thinking, ms",
            ),
            tuple(rows),
            "Punctuality",
            (
                "LeRobot's SO-101 driver on an emulated servo bus, two cameras of 640x480 at 30 Hz. The age of a command is that "
                "of the observation that its plan was made from.",
            ),
        ),
        {line.name: dataclasses.asdict(line.outcome) for line in lines},
    )


def _deployed(
    bench: ArmBench, folder: Path, episodes: int, realtime: bool = False, **policy: Any
) -> list[Outcome]:
    """Episodes on the simulated arm, on seeds from bench.seed on."""
    from ebt_policy.envs import environment
    from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions
    from ebt_policy.hardware.deploy import deploy
    from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig

    spec = environment(bench.task)
    return deploy(
        DeployConfig(
            policy=PolicyOptions(path=bench.policy, **policy),
            robot=SimRobotConfig(task=bench.task, realtime=realtime),
            episodes=episodes,
            seed=bench.seed,
            seconds=spec.max_ticks / spec.fps,
            output=str(folder),
        )
    )


def _solved(outcomes: Sequence[Outcome]) -> list[bool]:
    return [bool(outcome.success) for outcome in outcomes]


def _rate(solved: Sequence[bool]) -> tuple[str, str]:
    low, high = wilson(sum(solved), len(solved))
    return f"{np.mean(solved):.1%} [{low:.1%}, {high:.1%}]", str(len(solved))


def _difference(first: Sequence[bool], second: Sequence[bool]) -> str:
    found = paired_success_difference(first, second)
    return f"{100 * found.estimate:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}] points"
