"""The transformer that the energy and every matched baseline share.

Legend: B batch, H horizon, A action dimension, P action tokens (H / actions_per_token), D width, L layers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt_policy.configuration_chunk import ChunkPolicyConfig

FEW_TOKENS = 8


class Block(nn.Module):
    """Self-attention and MLP over action tokens, modulated by the context (adaLN, arXiv 2212.09748)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        # GELU and not ReLU: the energy's gradient is trained through, and ReLU's second derivative is zero.
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        # One for each layer: the only input of the observations. Sharing it between layers lowered success.
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x (B, P, D), modulation (B, 6, D) -> (B, P, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation[:, :, None].unbind(1)
        y = self.norm_attention(x) * (1 + scale_a) + shift_a
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, P, d)
        y = attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + (1 + gate_a) * self.project(y)
        y = self.norm_mlp(x) * (1 + scale_m) + shift_m
        return x + (1 + gate_m) * self.mlp(y)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of (B, heads, P, d) -> (B, heads, P, d)."""
    if not torch.compiler.is_compiling() or q.shape[2] > FEW_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    # Between a handful of tokens the products fuse into one pointwise kernel; the library's takes a quarter of a
    # training step there.
    scores = (q[:, :, :, None] * k[:, :, None]).float().sum(-1) * q.shape[-1] ** -0.5
    return (scores.softmax(-1)[..., None] * v[:, :, None]).sum(3).to(v.dtype)


class Trunk(nn.Module):
    """A chunk and its context -> one vector per action token, and from it one output per action."""

    def __init__(self, config: ChunkPolicyConfig, time_input: bool = False) -> None:
        super().__init__()
        assert config.action_feature is not None  # validate_features has run
        width, tokens = config.width, config.horizon // config.actions_per_token
        self.horizon, self.action_dim = config.horizon, config.action_feature.shape[0]
        size = config.actions_per_token * self.action_dim
        self.embed = nn.Linear(size, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(Block(width, config.attention_heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, size)
        self.time = TimeEmbedding(width) if time_input else None

    def modulation(self, context: Tensor, time: Tensor | None = None) -> Tensor:
        """context (B, D), time (B,) in [0, 1] for the baselines -> (B, L, 6, D)."""
        if self.time is not None:
            context = context + self.time(time)
        context = F.silu(context)
        # Without time input this is computed once for each decision, outside of the descent loop.
        layers = [block.modulate(context) for block in self.blocks]  # type: ignore[operator]
        return torch.stack(layers, 1).unflatten(-1, (6, -1))

    def tokens(self, chunk: Tensor, modulation: Tensor) -> Tensor:
        """chunk (B, H, A), modulation (B, L, 6, D) -> token vectors (B, P, D)."""
        x = self.embed(chunk.reshape(len(chunk), len(self.position), -1)) + self.position
        for block, m in zip(self.blocks, modulation.unbind(1), strict=True):
            x = block(x, m)
        return self.norm(x)

    def forward(self, chunk: Tensor, modulation: Tensor) -> Tensor:
        """chunk (B, H, A), modulation (B, L, 6, D) -> (B, H, A)."""
        return self.head(self.tokens(chunk, modulation)).reshape(-1, self.horizon, self.action_dim)


class TimeEmbedding(nn.Module):
    """Noise level in [0, 1], (B,) -> (B, D). For the baselines; the energy has no time input."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0, math.log(1000), 32)), persistent=False
        )
        self.mix = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        angles = time[:, None] * self.frequencies
        return self.mix(torch.cat([angles.sin(), angles.cos()], -1))
