"""The transformer that the energy and every matched baseline share.

Legend: B batch, H horizon, A action dimension, P action tokens (H / actions_per_token), N context tokens of width E, D width,
L layers.
"""

import math
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.model.encoders import TOKEN_WIDTH, Encoded

FEW_TOKENS, FEW_TOKENS_CPU = 8, 32  # that ask
MODULATION = 6  # vectors of adaLN in a layer: shift, scale and gate of attention and MLP


class Seen(NamedTuple):
    """What is computed once for each decision, whatever the noise level: context vector (B, D), and every layer's keys and values of
    the context tokens (B, L, 2 N, D) where there are some."""

    vector: Tensor
    keys_values: Tensor | None

    def rows(self, rows: Tensor) -> Self:
        """Those samples alone."""
        return self._replace(
            vector=self.vector[rows], keys_values=None if self.keys_values is None else self.keys_values[rows]
        )


class Block(nn.Module):
    """Attention and MLP over action tokens, modulated by the context vector (adaLN, arXiv 2212.09748).

    Action tokens attend to themselves and to the context tokens, where there are some.
    """

    def __init__(self, width: int, heads: int, token_width: int, dropout: float = 0.0) -> None:
        """token_width: of context tokens; 0: there are none."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        # GELU and not ReLU: the energy's gradient is trained through, and ReLU's second derivative is zero.
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        # One for each layer: the only input of the observations. Sharing it between layers lowered success.
        self.modulate = nn.Linear(width, MODULATION * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self.context_kv = nn.Linear(token_width, 2 * width) if token_width else None

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, P, D), context (B, 6 + 2 N, D) -> (B, P, D)."""
        modulation, rest = context[:, :MODULATION, None], context[:, MODULATION:]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.unbind(1)
        y = self.norm_attention(x) * (1 + scale_a) + shift_a
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, P, d)
        if self.context_kv is not None:
            seen = rest.unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(2, 2)
            k, v = torch.cat([k, seen[0]], 2), torch.cat([v, seen[1]], 2)
        y = attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + (1 + gate_a) * self.dropout(self.project(y))
        y = self.norm_mlp(x) * (1 + scale_m) + shift_m
        return x + (1 + gate_m) * self.dropout(self.mlp(y))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of queries (B, heads, P, d) to keys and values (B, heads, P + N, d) -> (B, heads, P, d)."""
    few = FEW_TOKENS_CPU if q.device.type == "cpu" else FEW_TOKENS
    if not torch.compiler.is_compiling() or q.shape[2] > few:
        return F.scaled_dot_product_attention(q, k, v)
    # Where a handful of tokens ask, the products fuse into one pointwise kernel; the library's takes a quarter of a
    # training step there, and more in bf16 (docs/tools/step_time.py, docs/tools/cost.py).
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
        self.blocks = nn.ModuleList(
            Block(width, config.attention_heads, TOKEN_WIDTH if config.has_tokens else 0, config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, size)
        self.time = TimeEmbedding(width) if time_input else None

    def seen(self, encoded: Encoded) -> Seen:
        """What `context` needs of the observations at every noise level."""
        if encoded.tokens is None:
            return Seen(encoded.vector, None)
        layers = [torch.cat(block.context_kv(encoded.tokens).chunk(2, -1), 1) for block in self.blocks]  # type: ignore[union-attr,operator]
        return Seen(encoded.vector, torch.stack(layers, 1))

    def context(self, seen: Seen, time: Tensor | None = None) -> Tensor:
        """What the layers need: modulation, keys and values (B, L, 6 + 2 N, D).

        time: (B,) in [0, 1] for the baselines. Without it this is computed once for each decision, outside of the descent loop.
        """
        vector = F.silu(seen.vector if self.time is None else seen.vector + self.time(time))
        layers = [block.modulate(vector) for block in self.blocks]  # type: ignore[operator]
        modulation = torch.stack(layers, 1).unflatten(-1, (MODULATION, -1))
        return modulation if seen.keys_values is None else torch.cat([modulation, seen.keys_values], 2)

    def tokens(self, chunk: Tensor, context: Tensor) -> Tensor:
        """chunk (B, H, A), context (B, L, 6 + 2 N, D) -> token vectors (B, P, D)."""
        x = self.embed(chunk.reshape(len(chunk), len(self.position), -1)) + self.position
        for block, c in zip(self.blocks, context.unbind(1), strict=True):
            x = block(x, c)
        return self.norm(x)

    def forward(self, chunk: Tensor, context: Tensor) -> Tensor:
        """chunk (B, H, A), context (B, L, 6 + 2 N, D) -> (B, H, A)."""
        return self.head(self.tokens(chunk, context)).reshape(-1, self.horizon, self.action_dim)


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
