"""Acting is minimising: from a start chunk to one that the energy accepts. Pure functions, no module state.

Legend: B samples, H horizon, A action dimension, S inner steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebt_policy.model.energy import Evaluation
from ebt_policy.model.trace import StopReason, Trace

# (chunks (b, H, A), rows (b,) among the B samples) -> Evaluation of those rows.
EnergyFunction = Callable[[Tensor, Tensor], Evaluation]
# An extra energy added by the caller: normalised chunks (b, H, A) -> (b,), differentiable.
ExtraEnergy = Callable[[Tensor], Tensor]

MAX_HALVINGS = 3
PROX_STEPS = 20


@dataclass(frozen=True)
class DescentRule:
    """When to step how far, and when to stop: whichever comes first, for each sample by itself.

    step_size: part of `update` that a step goes. From a start with noise, 1/2 halves the noise with every step.
    max_evaluations, min_evaluations: evaluations of the energy (forward passes of the trunk) for each sample.
    residual: stop when the RMS of `update` is at most this. None: never.
    settled: stop when the RMS change of the answer, the chunk that stopping now would return, is at most this. With
        the residual head the residual itself still holds what is left of the start; the answer does not. The first
        evaluation is compared with `expected`, if there is any. None: never.
    settled_ticks: the leading ticks of the chunk in which `settled` looks for change (those that will be executed).
        None: all.
    relative_energy: stop when a step lowered the energy by less than this part. None: never.
    energy: stop when the energy is at most this, for example what successful episodes usually end at. None: never.
    deadline: stop when the clock passes this time, in the clock's seconds. None: never.
    """

    step_size: float = 0.5
    max_evaluations: int = 2
    min_evaluations: int = 1
    residual: float | None = None
    settled: float | None = None
    settled_ticks: int | None = None
    relative_energy: float | None = None
    energy: float | None = None
    deadline: float | None = None


def minimise(
    energy_function: EnergyFunction,
    start: Tensor,
    rule: DescentRule,
    extra: Sequence[ExtraEnergy] = (),
    final_step: float = 1.0,
    expected: Tensor | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Tensor, Trace]:
    """Descends the energy from `start` (B, H, A); returns the chunks (B, H, A) and the trace.

    A step is kept only if the total energy falls; otherwise it is halved, at most three times, each for one
    evaluation. `expected` (B, H, A), NaN where there is none, is the answer before the first evaluation: what was
    planned for now a decision ago. Every evaluation already holds the next proposal, so the result is one last step
    of relative length `final_step` from the best chunk evaluated: with the residual head, D(x, o) for the price of
    E(x, o).

    `extra` energies (joint limits, smoothness) compose by forward-backward splitting: each step along the learned
    energy is followed by a proximal step on theirs, which costs no evaluation of the trunk, the last step included.
    """
    batch = len(start)
    rows = torch.arange(batch, device=start.device)
    alive = torch.ones(batch, dtype=torch.bool, device=start.device)
    point, best, update = start, start, torch.zeros_like(start)
    answer = torch.full_like(start, torch.nan) if expected is None else expected
    best_energy = start.new_full((batch,), torch.inf)
    step = start.new_zeros(batch)
    used, halvings, reason = (torch.zeros_like(rows) for _ in range(3))
    log: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    while len(rows):
        energy, move = _evaluate(energy_function, point, rows)
        if extra:
            energy = energy + sum(term(point).detach() for term in extra)
        used = used + alive
        falls = alive & (energy < best_energy)  # False for NaN: a broken evaluation is never kept
        rms = move.square().mean((1, 2)).sqrt()
        log.append((energy, rms, torch.where(alive, step, torch.nan), falls))

        kept = falls[:, None, None]
        best, update = torch.where(kept, point, best), torch.where(kept, move, update)
        energy_before, best_energy = best_energy, torch.where(falls, energy, best_energy)
        halvings = torch.where(falls, 0, halvings + 1)
        step = torch.where(falls, rule.step_size, 0.5 * step)

        # Later lines win, so the most telling reason comes last.
        stop = torch.where(used >= rule.max_evaluations, int(StopReason.BUDGET), int(StopReason.NONE))
        if rule.deadline is not None and clock() >= rule.deadline:
            stop = torch.full_like(stop, int(StopReason.DEADLINE))
        lost = (halvings > MAX_HALVINGS) | ~torch.isfinite(best_energy)
        stop = torch.where(lost, int(StopReason.REJECTED), stop)
        enough = falls & (used >= rule.min_evaluations)
        if rule.relative_energy is not None:
            little = (energy_before - energy) < rule.relative_energy * energy_before.abs()
            stop = torch.where(enough & little, int(StopReason.RELATIVE_ENERGY), stop)
        if rule.settled is not None:
            answer, before = torch.where(kept, point + move, answer), answer
            change = (answer - before)[:, : rule.settled_ticks].square().mean((1, 2)).sqrt()
            stop = torch.where(enough & (change <= rule.settled), int(StopReason.SETTLED), stop)
        if rule.energy is not None:
            stop = torch.where(enough & (energy <= rule.energy), int(StopReason.ENERGY), stop)
        if rule.residual is not None:
            stop = torch.where(enough & (rms <= rule.residual), int(StopReason.RESIDUAL), stop)

        reason = torch.where(alive, stop, reason)
        alive = alive & (stop == int(StopReason.NONE))
        rows = alive.nonzero().flatten()
        if len(rows):
            point = _forward_backward(best, update, step, extra)

    chunk = _forward_backward(best, update, torch.full_like(step, final_step), extra)
    return chunk, Trace.from_steps(log, used, reason)


def _evaluate(energy_function: EnergyFunction, point: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Energy (B,) and update (B, H, A): evaluated for `rows` alone, NaN for the samples that have stopped."""
    if len(rows) == len(point):
        evaluation = energy_function(point, rows)
        return evaluation.energy, evaluation.update
    evaluation = energy_function(point[rows], rows)
    energy, update = point.new_full((len(point),), torch.nan), torch.full_like(point, torch.nan)
    energy[rows], update[rows] = evaluation.energy, evaluation.update
    return energy, update


def _forward_backward(x: Tensor, update: Tensor, step: Tensor, extra: Sequence[ExtraEnergy]) -> Tensor:
    moved = x + step[:, None, None] * update
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


def best_of(energies: Tensor) -> Tensor:
    """energies (B, N) -> index (B,) of the lowest energy among N starts (NaN never wins)."""
    return torch.where(torch.isfinite(energies), energies, torch.inf).argmin(1)
