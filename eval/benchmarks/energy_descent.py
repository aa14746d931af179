"""Is a step of the policy a descent of its energy, does thinking help, and what does the reading tell?

    python -m ebt_policy.eval.benchmarks.energy_descent POLICY [--episodes 200] [--evaluations 1 2 4 8 16 32 64] [--gradient]

Legend: M windows, B batch, H horizon, A action dimension.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.windows import Windows
from ebt_policy.eval.benchmarks.unseen_windows import whole_windows
from ebt_policy.eval.rollout.evaluate import evaluate
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.inference.runner import Runner, load_runner
from ebt_policy.model.energy import EnergyTransformer
from ebt_policy.model.noise import Noise, with_noise
from ebt_policy.model.trace import Trace
from ebt_policy.training.trained_on import held_out_episodes, training_data

SHARES = (2 / 3, 0.5, 0.15, 0.05)  # of noise in a demonstration
ITERATES = (1, 2, 4, 8)  # own steps from noise, with STEP
STEP = 0.7
DRAWS, DRAW_WINDOWS = 16, 128
CONVERGED, LONGEST = 1e-3, 256  # RMS change of the answer; evaluations by then


def windows(policy: str | Path, runner: Runner, at_most: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Held-out windows, normalised, and those `n_action_steps` earlier in the same episodes: what was decided on then."""
    from lerobot.policies.factory import make_pre_post_processors

    folder, config = find_checkpoint(policy), runner.config
    trained_on = training_data(folder)
    recipe = folder.parents[2] / "recipe.yaml"
    alignment = None
    if recipe.is_file():
        import yaml

        from ebt_policy.data.goal_alignment import find_goal_alignment

        alignment = find_goal_alignment(yaml.safe_load(recipe.read_text())["dataset"].get("goal_alignment"))
    data = Windows.from_lerobot(
        trained_on["repo_id"],
        features=[*runner.needs, *config.output_features],
        observation_delta_indices=config.observation_delta_indices,
        action_delta_indices=config.action_delta_indices,
        episodes=held_out_episodes(open_metadata(trained_on["repo_id"], None).total_episodes, trained_on),
        goal_alignment=alignment,
        resize_shape=config.resize_shape,
    )
    preprocess, _ = make_pre_post_processors(config, pretrained_path=str(folder))
    whole, lag = whole_windows(data, len(data)), config.n_action_steps
    owner = data.episode_index
    whole = whole[(whole >= lag) & (owner[whole] == owner[(whole - lag).clamp(min=0)])]
    whole = whole[torch.linspace(0, len(whole) - 1, min(at_most, len(whole))).long()]
    now, before = (preprocess(data.samples(rows)) for rows in (whole, whole - lag))
    return now, before


def cosines(model: EnergyTransformer, chunk: Tensor, context: Tensor) -> Tensor:
    """(B,) cosine of the step D(x, o) - x with minus the gradient of the energy at x."""
    _, gradient = model.gradient(chunk, context)
    with torch.no_grad():
        step = model.denoise(chunk, context) - chunk
    return torch.nn.functional.cosine_similarity(step.flatten(1), -gradient.flatten(1))


def descent(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, noise_levels: tuple[float, float] | None
) -> dict[str, list[float]]:
    """Median and 5th percentile of the cosines on noised demonstrations, own iterates, own answers and demonstrations."""
    torch.manual_seed(0)
    found = {}
    for share in SHARES:
        x = with_noise(chunk, torch.randn_like(chunk), share, noise_levels is not None)
        found[f"demonstration, noise {share}"] = cosines(model, x, context)
    x = (1.0 if noise_levels is None else noise_levels[1]) * torch.randn_like(chunk)
    for k in range(1, max(ITERATES) + 1):
        with torch.no_grad():
            answer = model.denoise(x, context)
        x = x + STEP * (answer - x)
        if k in ITERATES:
            found[f"iterate {k}"] = cosines(model, x, context)
        if k == 1:
            found["answer after 2"] = cosines(model, model.denoise(x, context).detach(), context)
    found["demonstration"] = cosines(model, chunk, context)
    return {name: value.quantile(torch.tensor([0.5, 0.05])).tolist() for name, value in found.items()}


def readings(
    runner: Runner, now: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """What each reading tells of the action error (Spearman), and how much of its variance is the draw of the noise."""
    policy: Any = runner.policy
    observations, earlier = (
        {k: v for k, v in batch.items() if k.startswith("observation.")} for batch in (now, before)
    )

    def decide(rows: slice, seed: int) -> tuple[Tensor, dict[str, np.ndarray]]:
        """Chunks (M, H, A) after a decision n_action_steps earlier, and the logarithm of each reading (M,)."""
        seen, past = ({k: v[rows] for k, v in batch.items()} for batch in (observations, earlier))
        noise = Noise(
            [torch.Generator().manual_seed(seed * 100_000 + i) for i in range(len(now["action"][rows]))]
        )
        memory = PlanMemory()
        memory.store(policy.decide(past, noise).chunk.numpy())
        plan = torch.from_numpy(memory.at(runner.n_action_steps))
        decision = policy.decide(seen, noise, plan)
        changed = (decision.chunk - plan)[:, : -runner.n_action_steps].square().mean((1, 2)).numpy()
        found = {
            "energy at the last evaluation": decision.trace.final_energy,
            "energy at the returned chunk": policy.energy(seen, decision.chunk).numpy(),
            "old plan": decision.trace.old_plan_energy,
            "change of the plan": changed,
        }
        return decision.chunk, {name: np.log(value) for name, value in found.items() if value is not None}

    chunk, told = decide(slice(None), 0)
    expert = now["action"]
    error = (chunk - expert).square().mean((1, 2)).sqrt().numpy()
    some = slice(0, len(expert), max(1, len(expert) // DRAW_WINDOWS))
    drawn = [decide(some, seed)[1] for seed in range(1, DRAWS + 1)]
    table = {"action error": {"rms": float(error.mean())}}
    for name, value in told.items():
        draws = np.stack([one[name] for one in drawn], 1)
        table[name] = {
            "spearman": float(np.asarray(spearmanr(value, error))[0]),
            "draw_share": float(draws.var(1, ddof=1).mean() / draws.var(ddof=1)),
        }
    return table


def rose(traces: Sequence[Trace]) -> float:
    """Share of all steps at which the energy did not fall."""
    changes = [np.diff(trace.energy, axis=1) for trace in traces]
    steps = sum(int(np.isfinite(change).sum()) for change in changes)
    return sum(int((change >= 0).sum()) for change in changes) / max(1, steps)


def thinking(
    policy: str,
    env: str,
    episodes: int,
    seed: int,
    evaluations: Sequence[int],
    overrides: Mapping[str, Any],
    show: bool = True,
) -> dict[str, dict[str, Any]]:
    """Success against evaluations; 0 evaluations: until the answer changes by less than CONVERGED."""
    found: dict[str, dict[str, Any]] = {}
    for count in evaluations:
        converge = {"stop_settled": CONVERGED, "min_evaluations": 2} if count == 0 else {}
        result = evaluate(
            policy,
            env,
            episodes,
            seed,
            max_evaluations=count or LONGEST,
            overrides=dict(overrides) | converge,
            processes=1,
            group_size=100,
            latency=False,
        )
        name = str(count) if count else "converged"
        found[name] = {
            "success": result.success_rate,
            "coverage": result.mean_max_coverage,
            "evaluations": result.evaluations_per_decision,
            "rose": rose([trace for row in result.rows for trace in row.traces]),
            "solved": [int(row.success) for row in result.rows],
        }
        if show:
            print(
                name,
                *(f"{key} {found[name][key]:.3f}" for key in ("success", "coverage", "evaluations", "rose")),
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Cosine of a step with minus the gradient, success against evaluations, and what the reading tells."
    )
    parser.add_argument("policy")
    parser.add_argument("--env", default="pusht_keypoints")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=50_000)
    parser.add_argument("--evaluations", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64, 0])
    parser.add_argument("--gradient", action="store_true", help="step along the energy's gradient")
    parser.add_argument(
        "--step-size", type=float, help="share of the way to D(x, o); default: as the policy acts"
    )
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    if given.windows:
        runner = load_runner(given.policy)
        policy: Any = runner.policy
        model = policy.model
        now, before = windows(given.policy, runner, given.windows)
        observations = {k: v for k, v in now.items() if k.startswith("observation.")}
        with torch.no_grad():
            context = model.context(policy._observations(observations))
        figures["cosine"] = descent(model, context, now["action"], policy.config.noise_levels)
        for name, (median, low) in figures["cosine"].items():
            print(f"cosine at {name}: median {median:.3f}, 5th percentile {low:.3f}")
        figures["readings"] = readings(runner, now, before)
        for name, values in figures["readings"].items():
            print(f"{name}:", *(f"{k} {v:.3f}" for k, v in values.items()), flush=True)
    if given.evaluations:
        options = {} if given.step_size is None else {"step_size": given.step_size}
        if given.gradient:
            options["descends"] = "gradient"
        figures["thinking"] = thinking(
            given.policy, given.env, given.episodes, given.seed, given.evaluations, options
        )
    if given.json:
        partial = given.json.with_suffix(".tmp")
        partial.write_text(json.dumps(figures))
        os.replace(partial, given.json)


if __name__ == "__main__":
    main()
