"""Is what was planned still right? The energy of the last plan's remaining actions under the present observation."""

import torch
from torch import Tensor

from ebt_policy.model.energy import EnergyTransformer, Evaluation
from ebt_policy.model.overlap import planned


class OldPlan:
    """Rides along with the first evaluation of a decision as more rows of its batch, so that it costs no call of its own.

    Legend: B samples, H horizon, A action dimension, n actions executed between two decisions.
    """

    def __init__(
        self, model: EnergyTransformer, context: Tensor, previous: Tensor | None, n_action_steps: int
    ) -> None:
        """context (B, L, 6 + 2 N, D), N context tokens. previous (B, H, A): the last chunk shifted to now, its last action repeated at the end, rows of
        NaN where there is none. Without a denoiser, or if everything was executed, there is no reading.
        """
        self._model, self._context = model, context
        self.energy: Tensor | None = None
        """(B,) 1/2 ||x - D(x, o)||^2 over the first H - n actions; NaN without an old plan. Of a late decision, whose plan reaches
        less far, over those that are left, scaled as if they were H - n. Not comparable between policies of different n."""
        self._ticks = 0 if previous is None else previous.shape[1] - n_action_steps
        self._plan = previous if model.is_denoiser and self._ticks > 0 else None

    def beside(self, chunks: Tensor, context: Tensor) -> Evaluation:
        """Evaluates chunks (b, H, A) under their context, and with the first of them the old plan."""
        if self._plan is None:
            return self._model.evaluate(chunks, context)
        plan, self._plan, b = self._plan, None, len(chunks)
        both = self._model.evaluate(
            torch.cat([chunks, plan.nan_to_num()]), torch.cat([context, self._context])
        )
        own = planned(plan)[:, : self._ticks]
        energy = 0.5 * (both.update[b:, : self._ticks].square().sum(2) * own).sum(1)
        energy = energy * self._ticks / own.sum(1)
        self.energy = torch.where(torch.isfinite(plan).all((1, 2)), energy, torch.nan)
        return Evaluation(both.energy[:b], both.update[:b])
