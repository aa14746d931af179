"""Acting is minimising: from a start chunk to one that the energy accepts. Pure functions, no module state.

Legend: B samples, H horizon, A action dimension, S inner steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebt_policy.energy import Evaluation
from ebt_policy.trace import StopReason, Trace

# (chunks (b, H, A), rows (b,) among the B samples) -> Evaluation of those rows.
Landscape = Callable[[Tensor, Tensor], Evaluation]
# An extra energy added by the caller: normalised chunks (b, H, A) -> (b,), differentiable.
ExtraEnergy = Callable[[Tensor], Tensor]

MAX_HALVINGS = 3
PROX_STEPS = 20


@dataclass(frozen=True)
class DescentRule:
    """When to step how far, and when to stop: whichever comes first, for each sample by itself.

    relaxation: part of `direction` that a step goes. "flow" instead goes 1 / (evaluations left), the straight-line
        schedule of flow matching, for starts that are noise.
    max_evaluations, min_evaluations: evaluations of the energy (forward passes of the trunk) for each sample.
    residual: stop when the RMS of `direction` is at most this. None: never.
    relative_energy: stop when a step lowered the energy by less than this part. None: never.
    deadline: stop when the clock passes this time, in the clock's seconds. None: never.
    """

    relaxation: float | str = 0.9
    max_evaluations: int = 2
    min_evaluations: int = 1
    residual: float | None = None
    relative_energy: float | None = None
    deadline: float | None = None

    def step_size(self, evaluations: Tensor) -> Tensor:
        """Relative length (b,) of the step that follows `evaluations` (b,) evaluations."""
        if self.relaxation == "flow":
            return 1.0 / (self.max_evaluations + 1 - evaluations).clamp(min=1)
        return torch.full(evaluations.shape, float(self.relaxation), device=evaluations.device)


def minimise(
    landscape: Landscape,
    start: Tensor,
    rule: DescentRule,
    extra: Sequence[ExtraEnergy] = (),
    final_step: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Tensor, Trace]:
    """Descends the energy from `start` (B, H, A); returns the chunks (B, H, A) and the trace.

    A step is kept only if the total energy falls; otherwise it is halved, at most three times, each for one
    evaluation. Every evaluation already holds the next proposal, so the result is one last step of relative length
    `final_step` from the best chunk evaluated: with the residual head, D(x, o) for the price of E(x, o).

    `extra` energies (joint limits, smoothness) compose by forward-backward splitting: each step along the learned
    energy is followed by a proximal step on theirs, which costs no evaluation of the trunk, the last step included.
    """
    batch = len(start)
    best, best_energy = start.clone(), start.new_full((batch,), torch.inf)
    direction = torch.zeros_like(start)
    point, step = start.clone(), start.new_zeros(batch)
    halvings = torch.zeros(batch, dtype=torch.long, device=start.device)
    used = torch.zeros_like(halvings)
    reason = torch.full_like(halvings, int(StopReason.BUDGET))
    rows = torch.arange(batch, device=start.device)
    log = _Log(batch)

    while len(rows):
        x = point[rows]
        evaluation = landscape(x, rows)
        used[rows] += 1
        energy = evaluation.energy + sum(
            (term(x).detach() for term in extra), torch.zeros_like(evaluation.energy)
        )
        before = best_energy[rows]
        falls = energy < before  # False for NaN: a broken evaluation is never kept
        rms = evaluation.direction.square().mean((1, 2)).sqrt()
        log.add(rows, energy, rms, step[rows], falls)

        kept, lost = rows[falls], rows[~falls]
        best[kept], best_energy[kept] = x[falls], energy[falls]
        direction[kept] = evaluation.direction[falls]
        halvings[kept] = 0
        halvings[lost] += 1
        step[kept] = rule.step_size(used[kept])
        step[lost] *= 0.5

        stop = torch.full_like(rows, int(StopReason.NONE))
        # Later lines win, so the most telling reason comes last.
        stop[used[rows] >= rule.max_evaluations] = int(StopReason.BUDGET)
        if rule.deadline is not None and clock() >= rule.deadline:
            stop[:] = int(StopReason.DEADLINE)
        stop[halvings[rows] > MAX_HALVINGS] = int(StopReason.REJECTED)
        stop[~torch.isfinite(best_energy[rows])] = int(StopReason.REJECTED)
        enough = falls & (used[rows] >= rule.min_evaluations)
        if rule.relative_energy is not None:
            stop[enough & ((before - energy) < rule.relative_energy * before.abs())] = int(
                StopReason.RELATIVE_ENERGY
            )
        if rule.residual is not None:
            stop[enough & (rms <= rule.residual)] = int(StopReason.RESIDUAL)

        reason[rows] = stop
        rows = rows[stop == int(StopReason.NONE)]
        point[rows] = _forward_backward(best[rows], direction[rows], step[rows], extra)

    chunk = _forward_backward(best, direction, torch.full_like(step, final_step), extra)
    return chunk, log.trace(used, reason)


def _forward_backward(x: Tensor, direction: Tensor, step: Tensor, extra: Sequence[ExtraEnergy]) -> Tensor:
    moved = x + step[:, None, None] * direction
    return proximal(moved, extra) if extra and len(moved) else moved


def proximal(centre: Tensor, extra: Sequence[ExtraEnergy], steps: int = PROX_STEPS) -> Tensor:
    """argmin_x 1/2 ||x - centre||^2 + sum of extra(x), for each sample, by gradient steps with backtracking.

    centre (B, H, A) -> (B, H, A). Never returns a point of higher value than `centre`.
    """

    def value(x: Tensor) -> Tensor:
        return 0.5 * (x - centre).square().sum((1, 2)) + sum(term(x) for term in extra)

    best = centre.clone()
    length = torch.ones(len(centre), device=centre.device)
    for _ in range(steps):
        with torch.enable_grad():
            x = best.detach().requires_grad_()
            current = value(x)
            (gradient,) = torch.autograd.grad(current.sum(), x)
        trial = best - length[:, None, None] * gradient
        falls = value(trial).detach() < current.detach()
        best = torch.where(falls[:, None, None], trial, best)
        length = torch.where(falls, length * 1.5, length * 0.25)
    return best.detach()


class _Log:
    """Collects the steps on the device and turns them into a Trace with one copy at the end."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.entries: list[tuple[Tensor, ...]] = []

    def add(self, rows: Tensor, *values: Tensor) -> None:
        self.entries.append((rows, *values))

    def trace(self, used: Tensor, reason: Tensor) -> Trace:
        shape = (self.batch, len(self.entries))
        energy, rms, step = (np.full(shape, np.nan, np.float32) for _ in range(3))
        accepted = np.zeros(shape, bool)
        for s, (rows, *values) in enumerate(self.entries):
            index = rows.cpu().numpy()
            for target, value in zip((energy, rms, step, accepted), values, strict=True):
                target[index, s] = value.detach().cpu().numpy()
        return Trace(
            energy=energy,
            residual_rms=rms,
            step_size=step,
            accepted=accepted,
            evaluations=used.cpu().numpy().astype(np.int64),
            stop_reason=reason.cpu().numpy().astype(np.int8),
        )


def best_of(chunks: Tensor, energies: Tensor) -> Tensor:
    """chunks (B, N, H, A), energies (B, N) -> index (B,) of the lowest energy among N starts (NaN never wins)."""
    return torch.where(torch.isfinite(energies), energies, torch.inf).argmin(1)
