"""Options of EBTConfig that saved policies have and this version has not."""

from typing import Any

FORMER = (
    "zero_start_share",
    "matching_target",
    "teacher_steps",
    "teacher_path",
    "verifier_weight",
    "verifier_negatives",
    "verifier_temperature",
    "iterates",
    "curl_weight",
)
"""All about training, so a trained policy acts as before without them."""


def current(saved: dict[str, Any]) -> dict[str, Any]:
    """The options of today for those of a saved config.

    Raises ValueError for a head or an objective that is no more.
    """
    options = {name: value for name, value in saved.items() if name not in FORMER}
    # Saved before `noise_levels`: trained on the interpolation between demonstration and noise.
    if "noise_power" in options:
        del options["noise_power"]
        options.setdefault("noise_levels", None)
    if "relaxation" in options:  # the former name of step_size
        relaxation = options.pop("relaxation")
        if options.get("step_size") is None:
            options["step_size"] = relaxation
    for name, value in (("head", "dot"), ("objective", "two_step")):
        if options.get(name) == value:
            raise ValueError(f"{name}={value!r} was removed: it gained nothing over the default.")
    return options
