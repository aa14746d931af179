"""Small networks that belong to a checkpoint: weights as safetensors, configuration as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from ebt_policy.errors import UserError
from ebt_policy.provenance import write_json


def save_net(net: nn.Module, folder: Path, name: str) -> None:
    """Writes NAME.safetensors and NAME.json; net.config: a dataclass with checkpoint_sha256 among its fields."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous().cpu() for k, v in net.state_dict().items()}, folder / f"{name}.safetensors")
    write_json(folder / f"{name}.json", asdict(net.config))  # type: ignore[call-overload]


def load_net[N: nn.Module](
    make: Callable[[dict[str, Any]], N], folder: Path, name: str, what: str, checkpoint_sha256: str | None
) -> N:
    """make(config) with the saved weights. Raises UserError when there are none, or of another checkpoint."""
    try:
        config = json.loads((folder / f"{name}.json").read_text())
        net = make(config)
        net.load_state_dict(load_file(folder / f"{name}.safetensors"))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder} holds no {what} that can be read: {error}") from error
    if checkpoint_sha256 not in (None, config["checkpoint_sha256"]):
        raise UserError(f"The {what} in {folder} was made for another checkpoint. Calibrate again.")
    return net.eval()
