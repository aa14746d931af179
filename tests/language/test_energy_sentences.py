"""The energy of what was done is lower under its own sentence."""

import json

import numpy as np
import pytest
from two_tasks import LEFT, RIGHT, make_dataset, recipe_for

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.energy_sentences import _by_task, sentence_energy
from ebt_policy.training.train import train


def test_what_was_done_has_less_energy_under_its_own_sentence(told, tmp_path):
    make_dataset(tmp_path / "new", [LEFT, RIGHT, LEFT, RIGHT])
    found = sentence_energy(
        told,
        "tests/two_tasks",
        tmp_path / "new",
        json_path=tmp_path / "e.json",
        show=False,
        episodes=range(4),
    )
    assert found.episode_auc == 1.0 and found.window_auc > 0.95 and found.pooled_auc > 0.9
    assert [(one.task, one.nearest) for one in found.tasks] == [(LEFT, RIGHT), (RIGHT, LEFT)]
    assert json.loads((tmp_path / "e.json").read_text())["window_auc"] == found.window_auc


def test_a_policy_that_is_not_told_its_task_has_no_sentences_to_compare(two_tasks, tmp_path):
    import dataclasses

    run = train(dataclasses.replace(recipe_for(two_tasks, task_encoder="ignore"), steps=2), tmp_path / "run")
    with pytest.raises(UserError, match="not told its task"):
        sentence_energy(run, root=two_tasks, episodes=range(2), show=False)


def test_shares_are_counted_by_window_and_by_mean_of_each_episode():
    # One task, two episodes of two windows, energies under (own, other): above in 3 of 4 windows, in both means.
    energy = np.array([[1.0, 4.0], [3.0, 2.0], [1.0, 2.0], [1.0, 5.0]])
    (found,) = _by_task(energy, np.zeros(4, int), np.array([0, 0, 1, 1]), ["own", "other"])
    assert (found.windows, found.episodes, found.nearest) == (0.75, 1.0, "other")
    (equal,) = _by_task(np.ones((4, 2)), np.zeros(4, int), np.array([0, 0, 1, 1]), ["own", "other"])
    assert (equal.windows, equal.episodes) == (0.5, 0.5)
