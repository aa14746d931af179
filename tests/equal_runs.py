"""Training runs in tests: all tensors of a checkpoint, whether two runs are equal, and Ctrl-C at a step."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ebt_policy.training.checkpoint import last_checkpoint
from ebt_policy.training.loop import Loop


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint: both sets of weights, optimiser, generators, statistics."""
    folder = last_checkpoint(run)
    assert folder is not None
    files = {path.relative_to(folder): load_file(path) for path in folder.rglob("*.safetensors")}
    return {f"{name}/{key}": value for name, found in files.items() for key, value in found.items()}


def assert_equal_runs(left: Path, right: Path) -> None:
    a, b = tensors(left), tensors(right)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C during that step."""
    original = Loop.step

    def interrupted(self: Loop):
        if self.trainer.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Loop, "step", interrupted)
