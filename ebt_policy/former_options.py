"""Options of EBTConfig that saved policies have and this version has not."""

from dataclasses import dataclass
from typing import Any


@dataclass
class FormerOptions:
    """They are accepted, so that every reader, LeRobot's own too, takes older configs; None once they are read."""

    noise_power: float | None = None
    """[former] Only configs saved before `noise_levels` have it: they get noise_levels None."""
    relaxation: float | None = None
    """[former] The former name of step_size."""
    zero_start_share: float | None = None
    """[former] About training alone, and gone; so are those below."""
    matching_target: str | None = None
    """[former] As above."""
    teacher_steps: int | None = None
    """[former] As above."""
    teacher_path: str | None = None
    """[former] As above."""
    noise_weighting: str | None = None
    """[former] As above."""
    unrolled_normalise_input: bool | None = None
    """[former] As above."""
    unrolled_every_step_loss: bool | None = None
    """[former] As above."""
    unrolled_energy_scaled_step: bool | None = None
    """[former] False became unrolled_temperature None."""
    gradient_step_size: float | None = None
    """[former] The step_size of the scalar head."""
    starts: int | None = None
    """[former] Several starts, the lowest energy wins: gained nothing."""
    stop_residual: float | None = None
    """[former] A stopping rule that gained nothing; so is the next."""
    stop_relative_energy: float | None = None
    """[former] As above."""
    verifier_weight: float | None = None
    """[former] As above."""
    verifier_negatives: int | None = None
    """[former] As above."""
    verifier_temperature: float | None = None
    """[former] As above."""

    def read_former_options(self) -> None:
        """Turns them into the options of today. Raises ValueError for a head or an objective that is no more."""
        today: Any = self
        if self.relaxation is not None:
            today.step_size = self.relaxation
        if self.gradient_step_size is not None and today.head == "scalar":
            today.step_size = self.gradient_step_size
        if self.unrolled_energy_scaled_step is False:
            today.unrolled_temperature = None
        if self.noise_power is not None:
            today.noise_levels = None
        for name in FormerOptions.__dataclass_fields__:
            setattr(self, name, None)
        for name, value in (("head", "dot"), ("objective", "two_step")):
            if getattr(self, name) == value:
                raise ValueError(f"{name}={value!r} was removed: it gained nothing over the default.")
