"""The tasks of `ebt-policy demo`, and how a page says what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ebt_policy.envs import environment
from ebt_policy.eval.rollout.evaluate import EvaluationResult
from ebt_policy.provenance import run_record


@dataclass(frozen=True)
class DemoTask:
    """A task of the demo and its shipped policies. simulator: its name, for the page."""

    env: str
    title: str
    simulator: str
    policies: tuple[str, ...]


TASKS = {
    "pusht": DemoTask(
        "pusht_keypoints",
        "PushT",
        "gym-pusht",
        ("shipped:pusht_keypoints_ebt", "shipped:pusht_keypoints_diffusion"),
    ),
    "pusht_pixels": DemoTask("pusht_pixels", "PushT from pixels", "gym-pusht", ("shipped:pusht_pixels_ebt",)),
    "lift": DemoTask("robosuite_lift", "Lift", "robosuite", ("shipped:robosuite_lift_ebt",)),
    "transfer_cube": DemoTask(
        "aloha_transfer_cube", "ALOHA TransferCube", "gym-aloha", ("shipped:aloha_transfer_cube_ebt",)
    ),
    "metaworld": DemoTask("metaworld_mt10", "Meta-World", "metaworld", ("shipped:metaworld_mt10_ebt",)),
}


def details(shows: DemoTask, measured: Sequence[EvaluationResult], seconds: float) -> dict[str, str]:
    """{heading: text} of what was run, where and for how long. measured: one result for each policy."""
    spec, first = environment(shows.env), measured[0]
    record = run_record()
    machine = record["machine"]
    return {
        "environment": f"{shows.env} ({shows.simulator}), {spec.max_ticks} ticks at {spec.fps} a second",
        "seeds": f"{first.seed} to {first.seed + first.episodes - 1}, the same for every policy",
        "success": spec.solved_when,
        "checkpoints": "; ".join(
            dict.fromkeys(f"{m.policy['policy']} (sha256 {m.checkpoint_sha256[:12]}…)" for m in measured)
        ),
        "command": record["command"],
        "commit": record["git"] or "not a checkout",
        "machine": f"{machine['system']} {machine['processor']}, {machine['cores']} cores",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "time": f"{seconds:.0f} s for everything on this page",
    }
