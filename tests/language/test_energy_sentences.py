"""The energy of what was done is lower under its own sentence."""

import json

import numpy as np
import pytest
from two_tasks import LEFT, RIGHT, make_dataset, recipe_for

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.energy_sentences import _by_task, _doubted, sentence_energy
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
    assert found.doubted == [] and "better: none" in " ".join(found.table().notes)


def test_episodes_in_which_another_task_is_done_are_listed_with_both_sentences(told, tmp_path):
    labels = [LEFT, RIGHT, LEFT, RIGHT]
    make_dataset(tmp_path / "new", labels, done=[LEFT, LEFT, RIGHT, RIGHT])
    found = sentence_energy(told, "tests/other_name", tmp_path / "new", show=False)
    assert found.episodes == [0, 1, 2, 3]  # of another dataset all: none was trained on
    assert {(one.episode, one.task, one.likely) for one in found.doubted} == {
        (1, RIGHT, LEFT),
        (2, LEFT, RIGHT),
    }
    assert any(f"'{RIGHT}' looks like '{LEFT}'" in note for note in found.table().notes)


def test_a_sentence_that_only_the_dataset_has_is_compared_with_those_that_are_known(told, tmp_path):
    make_dataset(tmp_path / "new", ["Please lift a red cup", LEFT], done=[LEFT, LEFT])
    with pytest.warns(UserWarning, match="not in the training data"):
        found = sentence_energy(told, "tests/other_name", tmp_path / "new", show=False)
    assert [(one.episode, one.likely) for one in found.doubted] == [(0, LEFT)]


def test_one_window_that_no_sentence_explains_does_not_outweigh_the_others():
    energy = np.array([[0.1, 0.2], [0.1, 0.2], [0.1, 0.2], [50.0, 30.0]])
    assert _doubted(energy, np.zeros(4, int), np.zeros(4, int), ["own", "other"]) == []
    (found,) = _doubted(energy, np.ones(4, int), np.zeros(4, int), ["own", "other"])
    assert (found.task, found.likely) == ("other", "own") and found.difference > 0


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
