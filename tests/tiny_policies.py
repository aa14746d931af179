"""Options of the smallest policies that are still the real ones."""

from typing import Any

# The smallest networks that are still the real policies. LeRobot's own are given our normalisation of ENV.
TINY_POLICIES: dict[str, dict[str, Any]] = {
    "ebt": {"width": 16, "layers": 1, "attention_heads": 2},
    "diffusion": {
        "horizon": 16,
        "n_action_steps": 8,
        "down_dims": [16, 32],
        "normalization_mapping": dict.fromkeys(("VISUAL", "STATE", "ENV", "ACTION"), "MIN_MAX"),
    },
    "act": {
        "chunk_size": 8,
        "n_action_steps": 8,
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 32,
        "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1,
    },
}
