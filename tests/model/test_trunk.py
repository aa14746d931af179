"""The trunk's attention computes the same whichever way it is computed."""

import pytest
import torch
import torch.nn.functional as F

from ebt_policy.model.trunk import FEW_TOKENS_CPU, attention


@pytest.mark.parametrize("context", [0, 3, 40])
@pytest.mark.parametrize("tokens", [1, 4, FEW_TOKENS_CPU, FEW_TOKENS_CPU + 1])
def test_the_fused_form_equals_the_librarys(
    tokens: int, context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, tokens, 5, generator=draws)
    k, v = torch.randn(2, 2, 3, tokens + context, 5, generator=draws).unbind(0)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
