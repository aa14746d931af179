"""A checkpoint made small enough to ship: half-precision weights beside the configuration and processors."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ebt_policy.errors import UserError
from ebt_policy.provenance import write_json

WEIGHTS = "model.safetensors"


def export(checkpoint: Path, output: Path) -> Path:
    """Copies a pretrained_model folder with its weights in float16; loading turns them into float32 again.

    Half the bytes. What is evaluated and shipped is the exported copy, so its figures are its own. It names no folder of this
    computer. Raises UserError when a weight does not fit float16 or the folder is taken.
    """
    if output.exists() and any(output.iterdir()):
        raise UserError(f"'{output}' exists. Choose another folder.")
    weights = load_file(checkpoint / WEIGHTS)
    halves = {k: v.half() if v.dtype == torch.float32 else v for k, v in weights.items()}
    broken = [k for k, v in halves.items() if not torch.isfinite(v).all()]
    if broken:
        raise UserError(f"These weights do not fit half precision: {broken[:5]}.")
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(checkpoint.iterdir()):
        if path.name != WEIGHTS:
            shutil.copyfile(path, output / path.name)
    save_file(halves, output / WEIGHTS, metadata={"format": "pt"})
    without_folders(output / "train_config.json")
    return output


def without_folders(path: Path) -> dict[str, Any]:
    """Removes this computer's folders from a train_config.json; returns the rest, {} where there is no such file."""
    if not path.is_file():
        return {}
    config = json.loads(path.read_text())
    config |= {"output_dir": None}
    config["dataset"] = (config.get("dataset") or {}) | {"root": None}
    write_json(path, config)
    return config
