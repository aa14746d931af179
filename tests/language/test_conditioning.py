"""Policies that are told their task: what they do under each sentence, and what they refuse."""

import json
import warnings

import numpy as np
import pytest
import torch
from two_tasks import LEFT, RIGHT, make_dataset, recipe_for

from ebt_policy.configuration_matched_baseline import METHODS
from ebt_policy.errors import UserError
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.training.train import train


def actions(runner, sentences, states=None):
    """Mean first action of each of the sentences."""
    states = np.zeros((len(sentences), 1, 2), np.float32) if states is None else states
    seen = {"observation.state": states}
    if sentences[0] is not None:
        seen["task"] = np.array(sentences)
    return runner.decide(seen, Noise.from_seeds(range(len(states)))).actions[:, 0].mean(1)


def test_the_sentence_alone_decides_what_is_done(told):
    runner = load_runner(told)
    states = np.random.default_rng(7).normal(size=(40, 1, 2)).astype(np.float32)
    for sentence, wanted in ((LEFT, -1.0), (RIGHT, 1.0)):
        done = actions(runner, [sentence] * 40, states)
        assert np.abs(done - wanted).max() < 0.3


@pytest.mark.parametrize("method", METHODS)
def test_every_baseline_is_told_its_task_as_the_energy_is(told, two_tasks, tmp_path, method):
    options = {"type": "matched_baseline", "method": method, "num_inference_steps": 10}
    run = train(recipe_for(two_tasks, **options), tmp_path / "run")
    runner, energy = load_runner(run), load_runner(told)
    assert runner.sentences == energy.sentences == [LEFT, RIGHT]
    assert runner.config.observation_features() == energy.config.observation_features()
    states = np.random.default_rng(7).normal(size=(1, 1, 2)).astype(np.float32).repeat(4, 0)
    assert np.sign(actions(runner, [LEFT, RIGHT, RIGHT, LEFT], states)).tolist() == [-1, 1, 1, -1]


def test_rows_of_a_batch_follow_their_own_sentence(told):
    done = actions(load_runner(told), [LEFT, RIGHT, RIGHT, LEFT])
    assert np.sign(done).tolist() == [-1, 1, 1, -1]


def test_a_task_given_to_the_runner_overrides_that_of_the_world(told):
    done = actions(load_runner(told, task=RIGHT), [LEFT, LEFT])
    assert np.sign(done).tolist() == [1, 1]


def test_without_a_sentence_the_known_ones_are_listed(told):
    with pytest.raises(UserError, match=f"nothing says which.*{LEFT}.*{RIGHT}"):
        actions(load_runner(told), [None])


def test_an_unseen_sentence_is_understood_with_one_warning_that_names_the_nearest(told):
    runner = load_runner(told)
    with pytest.warns(UserWarning, match=f"most similar.*'{RIGHT}'"):
        done = actions(runner, ["Please lift a red cup"] * 2)
    assert (done > 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actions(runner, ["Please lift a red cup"])


def test_a_table_refuses_an_unseen_sentence_and_names_the_known_ones(two_tasks, tmp_path):
    run = train(recipe_for(two_tasks, task_encoder="table"), tmp_path / "run")
    runner = load_runner(run)
    assert np.sign(actions(runner, [LEFT, RIGHT])).tolist() == [-1, 1]
    with pytest.raises(UserError, match=f"'Lift a cup' is not one.*{RIGHT}"):
        actions(runner, ["Lift a cup"])


def test_one_task_is_not_conditioned_and_such_a_policy_takes_no_task(tmp_path):
    make_dataset(tmp_path / "one", [LEFT] * 4)
    recipe = recipe_for(tmp_path / "one")
    run = train(_short(recipe), tmp_path / "run")
    runner = load_runner(run)
    assert runner.sentences == [] and runner.config.observation_features() == {"observation.state": (2,)}
    with pytest.raises(UserError, match="not told its task"):
        load_runner(run, task=LEFT)


def test_ignore_trains_on_several_tasks_without_their_sentences(two_tasks, tmp_path):
    run = train(_short(recipe_for(two_tasks, task_encoder="ignore")), tmp_path / "run")
    assert load_runner(run).sentences == []


def test_a_checkpoint_from_before_the_sentences_keeps_its_tensors_and_its_actions(two_tasks, tmp_path):
    run = train(_short(recipe_for(two_tasks, task_encoder="ignore")), tmp_path / "run")
    config = run / "checkpoints/last/pretrained_model/config.json"
    before = actions(load_runner(run), [None])
    values = json.loads(config.read_text())
    config.write_text(json.dumps({k: v for k, v in values.items() if not k.startswith("task_")}))
    assert np.array_equal(actions(load_runner(run), [None]), before)


def test_known_sentences_need_no_encoder_once_they_are_trained(told, monkeypatch):
    runner = load_runner(told)
    monkeypatch.setattr("ebt_policy.language.task_step.encode", _no_package)
    assert np.sign(actions(runner, [LEFT, RIGHT])).tolist() == [-1, 1]


def test_fine_tuning_learns_a_new_sentence_with_text_and_refuses_it_with_a_table(told, two_tasks, tmp_path):
    make_dataset(tmp_path / "new", [LEFT, "Turn the dial", LEFT, "Turn the dial"])
    folder = str(told / "checkpoints/last/pretrained_model")
    run = train(recipe_for(tmp_path / "new", pretrained_path=folder), tmp_path / "tuned")
    runner = load_runner(run)
    assert runner.sentences == [LEFT, RIGHT, "Turn the dial"]
    assert np.sign(actions(runner, [LEFT, "Turn the dial"])).tolist() == [-1, 1]
    table = train(_short(recipe_for(two_tasks, task_encoder="table")), tmp_path / "table")
    closed = recipe_for(tmp_path / "new", pretrained_path=str(table))
    with pytest.raises(UserError, match="knows its own sentences only.*'Turn the dial'"):
        train(closed, tmp_path / "refused")


def test_resuming_goes_on_with_the_same_sentences(two_tasks, tmp_path):
    run = train(_short(recipe_for(two_tasks)), tmp_path / "run")
    before = load_runner(run)
    torch.manual_seed(5)
    train(_short(recipe_for(two_tasks), steps=6), run, resume=True)
    assert load_runner(run).sentences == before.sentences == [LEFT, RIGHT]


def _short(recipe, steps=3):
    import dataclasses

    return dataclasses.replace(recipe, steps=steps)


def _no_package(*_):
    raise AssertionError("the encoder was asked again")
