"""Whether the last plan still holds: its energy under the present observation."""

import numpy as np
import pytest
import torch
from core_fixtures import make_batch, make_policy
from torch import Tensor

from ebt_policy.inference.plan_memory import PlanMemory
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


@pytest.mark.parametrize("late", [0, 3, 7])
def test_of_a_late_decision_only_what_the_plan_still_covers_counts(late: int) -> None:
    policy, batch = make_policy(), make_batch(2)
    memory = PlanMemory()
    memory.store(batch["action"].numpy())
    plan = torch.from_numpy(memory.at(PLANNED + late))
    decision = policy.decide(observations(batch), Noise.from_seeds(range(2)), plan)
    with torch.no_grad():
        away = plan - policy.model.denoise(plan, policy.model.context(observations(batch)))
    left = PLANNED - late
    expected = 0.5 * away[:, :left].square().sum((1, 2)) * PLANNED / left
    np.testing.assert_allclose(decision.trace.old_plan_energy, expected.numpy(), rtol=1e-4)


def test_there_is_none_without_an_old_plan_or_where_everything_was_executed() -> None:
    policy, batch = make_policy(), make_batch(2)
    assert policy.decide(observations(batch), Noise.from_seeds(range(2))).trace.old_plan_energy is None
    whole = make_policy(n_action_steps=16)
    decided = whole.decide(observations(batch), Noise.from_seeds(range(2)), batch["action"])
    assert decided.trace.old_plan_energy is None


def test_the_reading_changes_neither_the_answer_nor_the_count_of_evaluations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, batch = make_policy(), make_batch(3)

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
