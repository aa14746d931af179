"""Refine action chunks by descending an energy until a stopping rule fires. Pure functions without module state.

Legend: B samples, H horizon, A action dimension. Each sample is independent of its batch-mates.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebt_policy.model.energy import Evaluation
from ebt_policy.model.overlap import Overlap
from ebt_policy.model.trace import StopReason, Trace

# (chunks (b, H, A), rows (b,): which of the B samples they are) -> Evaluation of these chunks
EnergyFunction = Callable[[Tensor, Tensor], Evaluation]
# An extra energy from the caller: normalised chunks (b, H, A) -> (b,), differentiable
ExtraEnergy = Callable[[Tensor], Tensor]

PROX_STEPS = 20


@dataclass(frozen=True)
class DescentRule:
    """Step size and stopping rules. A sample stops at the first rule that fires.

    step_size: fraction of `Evaluation.update` that a step goes; with a denoiser, 1/2 halves the noise with each step.
    max_evaluations, min_evaluations: function evaluations (forward passes of the trunk) for each sample. The rules below
        apply from min_evaluations on, the deadline always.
    settled: stop when the answer changed by at most this (RMS) from one evaluation to the next. The answer is the chunk
        after a full step. The first evaluation is compared with `expected` of `minimise`, if given. None: off, as below.
    settled_ticks: compare only this many leading ticks for `settled`. None: all.
    energy: stop where the reading that `minimise` is given is at most this.
    deadline: stop when the clock passes this time, seconds of the clock given to `minimise`.
    """

    step_size: float = 0.5
    max_evaluations: int = 2
    min_evaluations: int = 1
    settled: float | None = None
    settled_ticks: int | None = None
    energy: float | None = None
    deadline: float | None = None


def minimise(
    energy_function: EnergyFunction,
    start: Tensor,
    rule: DescentRule,
    extra: Sequence[ExtraEnergy] = (),
    final_step: float = 1.0,
    expected: Tensor | None = None,
    reading: Callable[[], Tensor | None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    overlap: Overlap | None = None,
) -> tuple[Tensor, Trace]:
    """Descends the energy from `start` (B, H, A); returns the chunks (B, H, A) and the trace.

    Each evaluation but the last is followed by a step of rule.step_size; the last one by a step of length `final_step`: with
    a denoiser and final_step 1 it gives D(x, o), for the price of E(x, o). A sample whose energy is not finite stops there: with
    the last step before it, or a chunk of NaN if there is none, since the start alone is no answer.

    extra: energies that are added, such as joint limits, by forward-backward splitting: after each step a proximal step
    on them, which costs no function evaluation. expected (B, H, A): what the last decision planned for now, NaN where it
    planned nothing; only the rule `settled` uses it. reading: called after each evaluation, an energy (B,) without added
    noise, NaN where it is not known; only the rule `energy` uses it. overlap: with the chunk before; its energy is added in the same
    way, last, so that what it fixes stays fixed.
    """
    terms = Terms(extra, overlap)
    point = start if overlap is None else overlap.pull(start)
    state = _State.at(point, expected)
    while len(state.rows):
        energy, update = _evaluate(energy_function, point, state.rows, extra)
        point = state.step(point, energy, update, rule, terms, reading(), clock)

    length = torch.full_like(state.energy, final_step)
    chunk = terms.after(state.point, state.update, length)
    answered = torch.isfinite(state.energy)[:, None, None]
    return torch.where(answered, chunk, torch.nan), Trace.from_steps(state.log, state.used, state.reason)


@dataclass(frozen=True)
class Terms:
    """What is added to the energy by proximal steps: the caller's energies, then the overlap with the chunk before."""

    extra: Sequence[ExtraEnergy] = ()
    overlap: Overlap | None = None

    def after(self, x: Tensor, update: Tensor, length: Tensor) -> Tensor:
        """x (B, H, A) after a step of `length` (B,) times `update` (B, H, A), then a proximal step on these energies."""
        return self.proximal(x + length[:, None, None] * update)

    def proximal(self, x: Tensor) -> Tensor:
        if self.extra and len(x):
            x = proximal(x, self.extra)
        return x if self.overlap is None else self.overlap.pull(x)


NO_TERMS = Terms()


@dataclass
class _State:
    """Where the descent of each sample is."""

    point: Tensor  # (B, H, A) the last chunk with a finite energy
    update: Tensor  # (B, H, A) at `point`
    energy: Tensor  # (B,) of `point`; infinity before the first evaluation
    answer: Tensor  # (B, H, A) `point` after a full step, NaN where there is none
    used: Tensor  # (B,) function evaluations
    reason: Tensor  # (B,) StopReason
    alive: Tensor  # (B,) bool: not stopped yet
    rows: Tensor  # (b,) their indices
    log: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def at(cls, start: Tensor, expected: Tensor | None) -> "_State":
        rows = torch.arange(len(start), device=start.device)
        count = torch.zeros_like(rows)
        return cls(
            point=start,
            update=torch.zeros_like(start),
            energy=start.new_full((len(start),), torch.inf),
            answer=torch.full_like(start, torch.nan) if expected is None else expected,
            used=count,
            reason=count,
            alive=torch.ones_like(rows, dtype=torch.bool),
            rows=rows,
        )

    def step(
        self,
        point: Tensor,
        energy: Tensor,
        update: Tensor,
        rule: DescentRule,
        terms: Terms,
        reading: Tensor | None,
        clock: Callable[[], float],
    ) -> Tensor:
        """Takes in the evaluation of `point` (B, H, A), applies the stopping rules, and returns the next point."""
        finite = self.alive & torch.isfinite(energy)
        rms = update.square().mean((1, 2)).sqrt()
        length = torch.full_like(energy, rule.step_size if self.log else 0.0)
        self.log.append((energy, rms, torch.where(self.alive, length, torch.nan)))
        self.used = self.used + self.alive
        kept = finite[:, None, None]
        answer = torch.where(kept, point + update, self.answer)

        stop = _limits(self.used, finite, rule, clock)
        enough = finite & (self.used >= rule.min_evaluations)
        for fired, reason in _converged(answer, self.answer, reading, rule):
            stop = torch.where(enough & fired, int(reason), stop)

        self.point, self.update = torch.where(kept, point, self.point), torch.where(kept, update, self.update)
        self.energy, self.answer = torch.where(finite, energy, self.energy), answer
        self.reason = torch.where(self.alive, stop, self.reason)
        self.alive = self.alive & (stop == int(StopReason.NONE))
        self.rows = self.alive.nonzero().flatten()
        if not len(self.rows):
            return self.point
        return terms.after(self.point, self.update, torch.full_like(energy, rule.step_size))


def _evaluate(
    energy_function: EnergyFunction, point: Tensor, rows: Tensor, extra: Sequence[ExtraEnergy]
) -> tuple[Tensor, Tensor]:
    """Total energy (B,) and update (B, H, A) at `point`; NaN for samples that are not among `rows`."""
    if len(rows) == len(point):
        evaluation = energy_function(point, rows)
        energy, update = evaluation.energy, evaluation.update
    else:
        evaluation = energy_function(point[rows], rows)
        energy, update = point.new_full((len(point),), torch.nan), torch.full_like(point, torch.nan)
        energy[rows], update[rows] = evaluation.energy, evaluation.update
    if extra:
        energy = energy + sum(term(point).detach() for term in extra)
    return energy, update


def _limits(used: Tensor, finite: Tensor, rule: DescentRule, clock: Callable[[], float]) -> Tensor:
    """StopReason (B,) of the rules that end a descent without an answer that is good enough."""
    stop = torch.where(used >= rule.max_evaluations, int(StopReason.BUDGET), int(StopReason.NONE))
    if rule.deadline is not None and clock() >= rule.deadline:
        stop = torch.full_like(stop, int(StopReason.DEADLINE))
    return torch.where(finite, stop, int(StopReason.NOT_FINITE))


def _converged(
    answer: Tensor, before: Tensor, reading: Tensor | None, rule: DescentRule
) -> list[tuple[Tensor, StopReason]]:
    """Which samples (B,) are good enough, and by which rule. Where several fire, the last one is recorded."""
    rules = []
    if rule.settled is not None:
        change = (answer - before)[:, : rule.settled_ticks]
        settled = change.square().mean((1, 2)).sqrt() <= rule.settled
        rules.append((settled, StopReason.SETTLED))
    if rule.energy is not None and reading is not None:
        rules.append((reading <= rule.energy, StopReason.ENERGY))  # False for NaN
    return rules


def proximal(centre: Tensor, extra: Sequence[ExtraEnergy], steps: int = PROX_STEPS) -> Tensor:
    """argmin_x 1/2 ||x - centre||^2 + sum of extra(x) for each sample, by gradient steps with backtracking.

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
