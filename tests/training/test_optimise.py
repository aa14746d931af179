"""Sample order, parameter groups, spike guard and weight average, as properties."""

import math

import pytest
import torch
from torch import nn

from ebt_policy.errors import UserError
from ebt_policy.model.parameter_groups import parameter_groups
from ebt_policy.training.optimise import SpikeGuard, WeightAverage, balanced_order, sample_order


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (7, 7), (3, 8), (64, 5)])
def test_every_epoch_shows_every_sample_once_and_every_batch_is_full(n, batch_size):
    steps = 2 * n
    order = torch.stack([sample_order(step, batch_size, n, seed=1) for step in range(steps)]).flatten()
    epochs = order[: len(order) // n * n].view(-1, n)
    assert (epochs.sort(1).values == torch.arange(n)).all()
    assert len(epochs.unique(dim=0)) > 1, "each epoch has an order of its own"


def test_order_depends_on_the_seed_and_on_nothing_else():
    first = sample_order(5, 16, 100, seed=1)
    torch.manual_seed(123)
    assert torch.equal(first, sample_order(5, 16, 100, seed=1))
    assert not torch.equal(first, sample_order(5, 16, 100, seed=2))


def test_decay_falls_on_matrices_only_and_no_trainable_parameter_is_forgotten():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 3))
    module[0].bias.requires_grad_(False)
    decayed, others = parameter_groups(module, 0.1)
    assert {p.ndim for p in decayed["params"]} == {2, 3} and decayed["weight_decay"] == 0.1
    assert {p.ndim for p in others["params"]} == {1} and others["weight_decay"] == 0.0
    chosen = {id(p) for p in decayed["params"] + others["params"]}
    assert chosen == {id(p) for p in module.parameters() if p.requires_grad}


def test_spikes_are_refused_and_usual_steps_are_not():
    guard = SpikeGuard()
    assert all(guard.accepts(1.0, 1.0 + 0.1 * (i % 3)) for i in range(30))
    assert guard.accepts(1.0, 5.0)
    assert not guard.accepts(1.0, 50.0)
    assert not guard.accepts(math.nan, 1.0)
    assert not guard.accepts(1.0, math.inf)
    assert guard.skipped == 3
    other = SpikeGuard()
    other.restore(guard.state())
    assert other.state() == guard.state() and not other.accepts(1.0, 50.0)


def test_divergence_ends_the_run():
    guard = SpikeGuard(patience=5)
    with pytest.raises(UserError, match="5 steps in a row"):
        for _ in range(5):
            guard.accepts(math.nan, math.nan)


def test_average_covers_every_tensor_and_forgets_the_start_early():
    source, average = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    with torch.no_grad():
        for tensor in [*source.parameters(), *source.buffers()]:
            tensor.fill_(1)
        for tensor in [*average.parameters(), *average.buffers()]:
            tensor.zero_()
    weights = WeightAverage(average, source, decay=0.999)
    weights.update(0)
    for name, tensor in average.state_dict().items():
        expected = 1.0 if name.endswith("num_batches_tracked") else 0.9  # 1 - (1 + 0) / (10 + 0)
        assert torch.allclose(tensor.double(), torch.tensor(expected).double()), name
    for t in range(1, 100):
        weights.update(t)
    assert average[0].weight.min() > 0.999


def test_average_decays_at_the_given_rate_in_the_end():
    source, average = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        source.weight.fill_(1)
        average.weight.fill_(0)
    WeightAverage(average, source, decay=0.9).update(10_000)
    assert average.weight.item() == pytest.approx(0.1)


def test_balanced_order_draws_all_groups_equally_often_and_each_without_gaps():
    groups = [torch.arange(0, 40), torch.arange(40, 45), torch.arange(45, 52)]
    drawn = torch.cat([balanced_order(step, 10, groups, seed=3) for step in range(12)])  # 120 samples
    owners = [int(((drawn >= g[0]) & (drawn <= g[-1])).sum()) for g in groups]
    assert owners == [40, 40, 40]
    first, second = (drawn[(drawn >= g[0]) & (drawn <= g[-1])] for g in groups[:2])
    assert sorted(first.tolist()) == groups[0].tolist()  # one pass
    counts = torch.bincount(second - 40)
    assert counts.tolist() == [8] * 5  # eight passes
    again = torch.cat([balanced_order(step, 10, groups, seed=3) for step in (4, 5)])
    assert torch.equal(again, drawn[40:60])
