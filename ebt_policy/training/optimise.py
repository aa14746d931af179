"""Parts of the training loop: order of the samples, spike guard, average of the weights."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ebt_policy.errors import UserError


def sample_order(step: int, batch_size: int, n_samples: int, seed: int) -> Tensor:
    """Sample numbers (batch_size,) int64 of one step. Every epoch is another permutation.

    It depends on its arguments only, so a resumed run continues with the same data. Every batch is full: at the end of an
    epoch it is filled with samples of the next one.
    """
    return _endless(step * batch_size, batch_size, partial(_permutation, n_samples, seed), n_samples)


def balanced_order(step: int, batch_size: int, groups: Sequence[Tensor], seed: int) -> Tensor:
    """As `sample_order`, with equally many samples of each group, however long they are.

    groups: the sample numbers of each. The groups take turns; within a group every pass is another permutation.
    """
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    order = torch.empty(batch_size, dtype=torch.int64)
    for number, members in enumerate(groups):
        mine = positions % len(groups) == number
        if mine.any():
            turn = int(positions[mine][0]) // len(groups)
            shuffled = partial(_group_permutation, len(members), len(groups) * seed + number)
            order[mine] = members[_endless(turn, int(mine.sum()), shuffled, len(members))]
    return order


def _endless(position: int, wanted: int, shuffled: Callable[[int], Tensor], n_samples: int) -> Tensor:
    """Entries position to position + wanted of the permutations shuffled(0), shuffled(1), ...: (wanted,) int64."""
    parts = []
    while wanted:
        epoch, start = divmod(position, n_samples)
        parts.append(shuffled(epoch)[start : start + wanted])
        wanted -= len(parts[-1])
        position += len(parts[-1])
    return torch.cat(parts)


def _drawn(n: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(n, generator=generator)


_permutation = lru_cache(maxsize=2)(_drawn)
_group_permutation = lru_cache(maxsize=256)(_drawn)  # of each group the present and the next one


class SpikeGuard:
    """Skips steps with a loss or gradient that is not finite, or a gradient norm far above the usual one.

    factor: skip above this many times the running median. window: steps in the median.
    patience: skipped steps in a row before giving up.
    """

    def __init__(self, factor: float = 8.0, window: int = 200, patience: int = 50) -> None:
        self.factor, self.patience = factor, patience
        self.norms: deque[float] = deque(maxlen=window)
        self.skipped = 0
        self.in_a_row = 0

    def accepts(self, loss: float, grad_norm: float) -> bool:
        """Whether to take this step. Raises UserError when too many in a row were skipped."""
        usual = median(self.norms) if len(self.norms) >= 20 else math.inf
        if math.isfinite(loss) and math.isfinite(grad_norm) and grad_norm <= self.factor * usual:
            self.norms.append(grad_norm)
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.patience:
            raise UserError(
                f"Training diverged: {self.in_a_row} steps in a row were skipped (loss {loss:.3g}, gradient norm "
                f"{grad_norm:.3g}, usual {usual:.3g}). Lower optimizer.lr, raise warmup_steps, or run "
                "`ebt-policy doctor` on the dataset."
            )
        return False

    def state(self) -> dict:
        """JSON-able."""
        return {"norms": list(self.norms), "skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: dict) -> None:
        self.norms.clear()
        self.norms.extend(state["norms"])
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


class WeightAverage:
    """Exponential moving average of every tensor of a module, into a copy of it.

    The decay is min(decay, (1 + t) / (10 + t)) at update t, so that the random weights of the start soon have no influence.
    Counters and other integers are copied.
    """

    def __init__(self, average: nn.Module, source: nn.Module, decay: float) -> None:
        self.decay = decay
        pairs = list(zip(_tensors(average), _tensors(source), strict=True))
        self._floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, t: int) -> None:
        """t: updates made before this one."""
        averages, sources = zip(*self._floating, strict=True)
        get_ema_multi_avg_fn(min(self.decay, (1 + t) / (10 + t)))(averages, sources, t)
        for average, source in self._others:
            average.copy_(source)


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
