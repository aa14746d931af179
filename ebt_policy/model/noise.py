"""Random numbers with one generator for each row of a batch, so that no row depends on the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def with_noise(chunk: Tensor, noise: Tensor, share: Tensor | float, keep_scale: bool) -> Tensor:
    """(1 - share) chunk + share noise; with keep_scale divided by 1 - share, so that noise is added to the chunk as it is:
    chunk + s noise, s = share / (1 - share). chunk, noise (B, ...), share a number or (B, 1, 1), below 1 with keep_scale.
    """
    x = (1 - share) * chunk + share * noise
    return x / (1 - share) if keep_scale else x


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
