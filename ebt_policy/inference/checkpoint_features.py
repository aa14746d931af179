"""Do the features of an environment, dataset or batch fit a policy?"""

from __future__ import annotations

import json
from pathlib import Path

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.errors import UserError


def check_features(config: ChunkPolicyConfig, folder: str | Path) -> None:
    """Raises UserError where the features of `config`, an environment's or dataset's, are not those of the checkpoint."""
    path = Path(folder) / "config.json"
    if not path.is_file():  # on the Hub
        return
    saved = json.loads(path.read_text())
    for ours, what in (
        (config.input_features, "input_features"),
        (config.output_features, "output_features"),
    ):
        here = {name: tuple(feature.shape) for name, feature in (ours or {}).items()}
        trained = {name: tuple(feature["shape"]) for name, feature in (saved.get(what) or {}).items()}
        same = here.keys() == trained.keys() and all(
            fits(trained[name], here[name], config.resize_shape) for name in here
        )
        if not same:
            raise UserError(
                f"The environment or dataset does not fit the checkpoint {folder}. The checkpoint has the "
                f"{what.replace('_', ' ')} {_listed(trained)}; here they are {_listed(here)}. Choose the environment or "
                "dataset that it was trained for, or train a policy on this one."
            )


def fits(expected: tuple[int, ...], found: tuple[int, ...], resize_shape: tuple[int, int] | None) -> bool:
    """Whether a feature of shape `found` can stand where `expected` is: of pictures (C, H, W) that the encoder resizes, C counts."""
    if len(expected) == len(found) == 3 and resize_shape:
        return expected[0] == found[0]
    return expected == found


def _listed(features: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(features.items())) or "none"
