"""Options of the scripted operator for the twin: `--teleop.type=ebt_expert`."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.teleoperators.config import TeleoperatorConfig


@TeleoperatorConfig.register_subclass("ebt_expert")
@dataclass(kw_only=True)
class ExpertTeleopConfig(TeleoperatorConfig):
    """answers_after_s: how long it lets the arm wait, in seconds of the twin. hands_back_after_s: then it hands back; None: it
    finishes the task. seed: of its style; each takeover has another one.
    """

    answers_after_s: float = 0.5
    hands_back_after_s: float | None = None
    seed: int = 0
