"""What a decision tells of itself: the error that it expects, and whether the last plan still holds."""

import numpy as np
import pytest
import torch
from core_fixtures import make_batch, make_policy
from torch import Tensor

from ebt_policy.inference.runner import load_runner
from ebt_policy.model import objectives
from ebt_policy.model.noise import Noise
from ebt_policy.model.old_plan import OldPlan

PLANNED = 8  # of 16 ticks, 8 are executed


def observations(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name.startswith("observation")}


def test_the_old_plan_is_evaluated_without_noise_on_the_ticks_that_it_planned() -> None:
    policy, batch = make_policy(), make_batch(3)
    plan = batch["action"].clone()
    plan[1] = torch.nan  # this row has none
    decision = policy.decide(observations(batch), Noise.from_seeds(range(3)), plan)
    with torch.no_grad():
        away = batch["action"] - policy.model.denoise(
            batch["action"], policy.model.context(observations(batch))
        )
    expected = 0.5 * away[:, :PLANNED].square().sum((1, 2))
    found = decision.trace.old_plan_energy
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]].numpy(), rtol=1e-4)
    assert np.isnan(found[1])


def test_there_is_none_without_an_old_plan_or_where_everything_was_executed() -> None:
    policy, batch = make_policy(), make_batch(2)
    assert policy.decide(observations(batch), Noise.from_seeds(range(2))).trace.old_plan_energy is None
    whole = make_policy(n_action_steps=16)
    decided = whole.decide(observations(batch), Noise.from_seeds(range(2)), batch["action"])
    assert decided.trace.old_plan_energy is None


@pytest.mark.parametrize("options", [{}, {"starts": 3}], ids=["one start", "three starts"])
def test_the_reading_changes_neither_the_answer_nor_the_count_of_evaluations(
    options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batch = make_policy(**options), make_batch(3)

    def decide():
        return policy.decide(observations(batch), Noise.from_seeds(range(3)), batch["action"])

    read = decide()
    monkeypatch.setattr(
        OldPlan, "beside", lambda self, chunks, context: self._model.evaluate(chunks, context)
    )
    unread = decide()
    torch.testing.assert_close(read.chunk, unread.chunk, atol=1e-5, rtol=0)
    assert read.trace.evaluations.tolist() == unread.trace.evaluations.tolist()
    assert read.trace.old_plan_energy is not None and unread.trace.old_plan_energy is None


def test_the_readout_leaves_the_trunk_alone() -> None:
    policy, batch = make_policy(), make_batch(8)
    model = policy.model
    context = model.context(observations(batch))
    chunk = batch["action"]
    objectives.readout_loss(model, context, chunk, model.denoise(chunk, context), chunk).sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved and all(name.startswith("error_readout.") for name in moved)


def test_the_expected_error_is_that_of_the_answer_that_is_kept() -> None:
    policy, batch = make_policy(), make_batch(3)
    decision = policy.decide(observations(batch), Noise.from_seeds(range(3)))
    assert decision.trace.expected_error.shape == (3,)
    assert (decision.trace.expected_error > 0).all()
    rejecting = make_policy(max_evaluations=1, min_evaluations=1)
    start = 2.0 * Noise.from_seeds(range(3)).normal((16, 2))
    with torch.no_grad():
        at_start = rejecting.model.evaluate(start, rejecting.model.context(observations(batch)))
    one = rejecting.decide(observations(batch), Noise.from_seeds(range(3))).trace
    np.testing.assert_allclose(one.expected_error, at_start.expected_error.numpy(), rtol=1e-4)


def test_where_demonstrations_disagree_the_expected_error_is_higher() -> None:
    policy = make_policy(width=32)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    policy.train()

    def batch(size: int) -> dict[str, Tensor]:
        """The first half is always answered alike, the second half at random."""
        found = make_batch(size)
        for name in observations(found):
            found[name] = torch.cat(
                [
                    -torch.ones(size // 2, *found[name].shape[1:]),
                    torch.ones(size - size // 2, *found[name].shape[1:]),
                ]
            )
        found["action"] = torch.rand(size, 1, 2).expand(-1, 16, -1) * 2 - 1
        found["action"][: size // 2] = 0.3
        order = torch.randperm(size)
        return {name: value[order] for name, value in found.items()}

    for _ in range(200):
        loss, _ = policy(batch(64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.eval()
    asked = {
        name: torch.stack([-torch.ones(2, *v.shape[2:]), torch.ones(2, *v.shape[2:])])
        for name, v in observations(batch(2)).items()
    }
    alike, open_ = policy.decide(asked, Noise.from_seeds([0, 1])).trace.expected_error
    assert open_ > 3 * alike


def test_policies_from_before_the_readout_have_no_expected_error() -> None:
    runner = load_runner("shipped:pusht_keypoints_ebt")
    assert runner.policy.model.error_readout is None
    seen = {
        name: np.zeros((1, 1, *feature.shape), np.float32)
        for name, feature in runner.config.input_features.items()
    }
    assert runner.decide(seen, Noise.from_seeds([0])).trace.expected_error is None
