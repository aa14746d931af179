"""What is left of the last chunk as LeRobot's real-time chunking hands it over (`lerobot-rollout --inference.type=rtc`).

Legend: B samples, T actions left, H horizon, A action dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebt_policy.errors import UserError
from ebt_policy.model.overlap import Overlap


def left_over_chunk(left_over: Tensor | None, horizon: int, action_dim: int) -> Tensor | None:
    """Normalised actions left (T, A) or (B, T, A) -> (B, H, A), the last one repeated; None where nothing is left.

    LeRobot fills them up with rows of zeros to its execution horizon: trailing zeros are no actions. Raises UserError for another
    shape, or values that are not finite.
    """
    if left_over is None:
        return None
    if left_over.ndim not in (2, 3) or left_over.shape[-1] != action_dim:
        raise UserError(
            f"prev_chunk_left_over must be (ticks, {action_dim}) or (batch, ticks, {action_dim}), normalised actions as "
            f"predict_action_chunk returned them; found {tuple(left_over.shape)}."
        )
    if not torch.isfinite(left_over).all():
        raise UserError(
            "prev_chunk_left_over holds NaN or infinity; expected the actions that are left of the last chunk."
        )
    chunk = left_over if left_over.ndim == 3 else left_over[None]
    given = int((chunk != 0).any(2).any(0).cumsum(0).argmax()) + 1 if chunk.numel() and chunk.any() else 0
    if not given:
        return None
    chunk = chunk[:, : min(given, horizon)]
    return torch.cat([chunk, chunk[:, -1:].expand(-1, horizon - chunk.shape[1], -1)], 1)


def overlap_of(previous: Tensor | None, inference_delay: int | None, rtc_config: object) -> Overlap | None:
    """The overlap with `previous` (B, H, A), of which `inference_delay` actions are executed while the policy thinks.

    rtc_config: LeRobot's RTCConfig, or None for its defaults. Its max_guidance_weight is for flow policies and not used here.
    Raises UserError for a delay that is no number of ticks.
    """
    if inference_delay is not None and (int(inference_delay) != inference_delay or inference_delay < 0):
        raise UserError(
            f"inference_delay must be a number of control periods, 0 or more; found {inference_delay}."
        )
    if previous is None:
        return None
    schedule = getattr(rtc_config, "prefix_attention_schedule", "linear")
    end = getattr(rtc_config, "execution_horizon", None)
    return Overlap.of(
        previous, int(inference_delay or 0), end, str(getattr(schedule, "value", schedule)).lower()
    )
