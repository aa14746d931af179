"""AdamW parameter groups."""

from torch import nn


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW groups over all trainable parameters: decay on tensors with two or more dimensions only."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
