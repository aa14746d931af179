"""The trunk's attention computes the same whichever way it is computed; dropout is for training alone."""

import pytest
import torch
import torch.nn.functional as F

from ebt_policy.model.trunk import FEW_TOKENS_CPU, Block, attention


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


def test_dropout_changes_what_is_trained_and_not_what_acts():
    torch.manual_seed(0)
    plain, dropping = Block(8, 2, 0), Block(8, 2, 0, dropout=0.5)
    dropping.load_state_dict(plain.state_dict())  # checkpoints with and without it are exchangeable
    x, context = torch.randn(4, 3, 8), torch.zeros(4, 6, 8)
    expected = plain(x, context)
    assert not torch.equal(dropping(x, context), dropping(x, context))
    assert (dropping(x, context) == x).float().mean() > 0.1  # both of what attention and MLP add was left out
    torch.testing.assert_close(dropping.eval()(x, context), expected)
