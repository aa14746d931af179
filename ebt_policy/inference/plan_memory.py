"""The last plan, shifted to the current tick: the warm start of the next decision.

Legend: B episodes deciding together, H horizon, A action dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


class PlanMemory:
    """Keeps the chunks of the last decision and the tick (control period) of each.

    Who cannot tell the current tick must call `forget`: a plan shifted by the wrong number of ticks is worse than none.
    """

    def __init__(self) -> None:
        self._chunks: NDArray[np.float32] | None = None
        self._ticks: NDArray[np.float64] = np.zeros(0)

    def store(self, chunks: NDArray[np.float32], tick: ArrayLike = 0) -> None:
        """chunks (B, H, A) normalised, their first action for `tick`: one number, or one for each row (B,).

        A row with a NaN is a dropped plan. They are copied: whoever gets the actions may change them.
        """
        self._chunks = chunks.copy()
        self._ticks = np.broadcast_to(np.asarray(tick, np.float64), len(chunks))

    def at(self, tick: ArrayLike) -> NDArray[np.float32] | None:
        """The chunks (B, H, A) as seen at `tick` (a number, or (B,)): executed actions cut off, the last one repeated.

        Rows are NaN where the plan was dropped or does not cover `tick`; None where no row has a plan. Ticks are rounded.
        """
        if self._chunks is None:
            return None
        elapsed = np.rint(np.asarray(tick, np.float64) - self._ticks)
        horizon = self._chunks.shape[1]
        usable = (elapsed >= 0) & (elapsed < horizon) & np.isfinite(self._chunks).all((1, 2))
        if not usable.any():
            return None
        index = np.clip(np.arange(horizon) + elapsed[:, None], 0, horizon - 1).astype(np.int64)
        shifted = np.take_along_axis(self._chunks, index[..., None], axis=1)
        return np.where(usable[:, None, None], shifted, np.float32(np.nan))

    def keep(self, rows: Sequence[int]) -> None:
        """Forgets all rows but these."""
        if self._chunks is not None:
            self._chunks, self._ticks = self._chunks[rows], self._ticks[rows]

    def forget(self) -> None:
        """Drops all plans: a new episode, or an unknown tick."""
        self._chunks = None
