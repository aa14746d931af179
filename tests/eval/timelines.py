"""Invented timelines for tests, without a policy or a simulator."""

from dataclasses import replace

import numpy as np

from ebt_policy.eval.rollout.timeline import Timeline, TimelineDecision

TICKS, PER_DECISION, FPS = 40, 8, 10.0


def decision(i: int, **changes) -> TimelineDecision:
    """Decision i of a made-up episode: three points, each of half the energy before it."""
    return replace(
        TimelineDecision(
            tick=i * PER_DECISION,
            seconds=0.012,
            evaluations=3,
            stop_reason="SETTLED",
            energy=(4.0 + i, 2.0 + i / 2, 1.0 + i / 4),
            residual_rms=(0.5, 0.2, None),
            score=None,
            quantile=None,
            alarm=False,
            recovery="",
            old_plan_energy=0.5 + i / 4 if i else None,  # the first decision has no plan before it
        ),
        **changes,
    )


def timeline(seed: int | None = 7, *, success: bool | None = True, peak: float = 0.5, **changes) -> Timeline:
    """An episode of 40 ticks and 5 decisions whose quantile is highest at its fourth: an alarm above .9."""
    decisions = tuple(
        decision(
            i,
            quantile=peak if i == 3 else 0.1,
            score=2 * peak if i == 3 else 0.2,
            alarm=i == 3 and peak > 0.9,
        )
        for i in range(TICKS // PER_DECISION)
    )
    return replace(
        Timeline(
            env="pusht_keypoints",
            policy="made up",
            seed=seed,
            fps=FPS,
            ticks=TICKS,
            success=success,
            ticks_to_success=TICKS if success else None,
            coverage=tuple(i / TICKS for i in range(TICKS)),
            signal="overlap",
            threshold=1.8,
            alpha=0.1,
            disturbance_kind="teleport",
            disturbance_strength=1.0,
            disturbance_begin=20,
            disturbance_end=24,
            decisions=decisions,
            video="",
        ),
        **changes,
    )


def frames(count: int = TICKS + 1, size: int = 64) -> list[np.ndarray]:
    """A square that walks across the picture, one pixel a tick."""
    pictures = np.full((count, size, size, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        picture[28:36, i : i + 8] = (200, 30, 30)
    return list(pictures)
