"""The numerical state that a decision is made in, whatever its caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def fp32_grad_enabled(device_type: str) -> Iterator[None]:
    """Enables gradients and disables inference mode and autocast: float32 in every context of the caller.

    LeRobot calls policies under inference_mode, no_grad and autocast. Under inference_mode gradients are refused
    or, with torch.func, silently zero.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode: no dropout, no random shift. A module that was in training is so again afterwards."""
    training = module.training
    if training:
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()


def detached_fp32(tensor: Tensor) -> Tensor:
    """Detach, clone, cast to float32. The result is a normal tensor even if the input is an inference tensor."""
    return tensor.detach().clone().float()
