"""Random numbers with one generator for each row of a batch, so that no row depends on the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Noise:
    """One random generator for each row (episode). Drawing advances all of them."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)

    @classmethod
    def from_seeds(cls, seeds: Iterable[int]) -> Noise:
        return cls([torch.Generator().manual_seed(int(seed)) for seed in seeds])

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal (B, *shape) float32 on the CPU: the same numbers whatever device the policy runs
        on.
        """
        return torch.stack([torch.randn(tuple(shape), generator=g) for g in self.generators])

    def rows(self, indices: Iterable[int]) -> Noise:
        """The noise of some rows. The generators are shared: drawing from the part advances the whole."""
        return Noise([self.generators[int(i)] for i in indices])

    def __len__(self) -> int:
        return len(self.generators)
