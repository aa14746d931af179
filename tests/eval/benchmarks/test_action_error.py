"""Errors are those of the executed actions, in the dataset's units, episode by episode."""

import numpy as np
import pytest
import torch
from two_tasks import LEFT, RIGHT, make_dataset, recipe_for

from ebt_policy.eval.benchmarks.action_error import squared_errors
from ebt_policy.modeling_ebt import EBTPolicy
from ebt_policy.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    make_dataset(folder / "data", [LEFT, RIGHT] * 3)
    recipe = recipe_for(folder / "data")
    return train(recipe, folder / "run"), folder / "data"


def test_a_trained_policy_errs_by_less_than_the_actions_differ(run):
    policy, root = run
    errors = squared_errors(policy, "tests/two_tasks", root, episodes=range(6), max_evaluations=2)
    assert (
        errors.shape == (6,) and (errors > 0).all() and np.sqrt(errors.mean()) < 0.2
    )  # actions are about -1 and 1


def test_only_the_executed_actions_count(run, monkeypatch):
    policy, root = run

    def errors() -> np.ndarray:
        return squared_errors(policy, "tests/two_tasks", root, episodes=range(6), max_evaluations=2)

    decide, before = EBTPolicy.decide, errors()

    def changed(after: int):
        def with_offset(self, *args, **options):
            decision = decide(self, *args, **options)
            decision.chunk = decision.chunk.clone()
            decision.chunk[:, after:] += 10
            return decision

        return with_offset

    monkeypatch.setattr(EBTPolicy, "decide", changed(2))  # n_action_steps
    assert np.array_equal(errors(), before)
    monkeypatch.setattr(EBTPolicy, "decide", changed(1))
    assert (errors() > before + 10).all()


def test_actions_are_compared_in_the_units_of_the_dataset(run, monkeypatch):
    policy, root = run

    def still(self, batch, **options):
        chunk = torch.zeros(len(batch["observation.state"]), 4, 2)  # the middle of the dataset's range
        return type("Decision", (), {"chunk": chunk})()

    monkeypatch.setattr(EBTPolicy, "decide", still)
    errors = squared_errors(policy, "tests/two_tasks", root, episodes=range(6))
    assert errors == pytest.approx(
        np.ones(6), abs=0.05
    )  # actions are about -1 and 1, in one episode all alike
