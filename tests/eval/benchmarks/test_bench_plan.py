"""A plan says what is left and what it costs, and trains nothing."""

import re

import pytest
from rich.console import Console
from two_tasks import LEFT, RIGHT, make_dataset, recipe_for

from ebt_policy.eval.benchmarks.bench_plan import NS, parameters, print_plan, training_plan
from ebt_policy.eval.benchmarks.parallel_training import Training
from ebt_policy.training.run_log import read_metrics
from ebt_policy.training.train import train


@pytest.fixture
def recipe(tmp_path):
    import dataclasses

    make_dataset(tmp_path / "data", [LEFT, RIGHT])
    return dataclasses.replace(recipe_for(tmp_path / "data"), steps=4)


def test_parameters_are_those_that_training_counts(recipe, tmp_path):
    import json

    run = train(recipe, tmp_path / "run")
    counted = json.loads((run / "run.json").read_text())["parameters"]
    assert parameters(recipe) == (counted, False)


def test_what_is_done_is_said_and_gives_the_speed_of_the_rest(recipe, tmp_path):
    import dataclasses

    longer = dataclasses.replace(recipe, steps=6_000_000)
    size, samples = parameters(recipe)[0], longer.steps * longer.batch_size

    def left(*trainings: Training) -> dict[str, str]:
        return {row[0]: row[-1] for row in training_plan(trainings).rows}

    rest = Training("rest", longer, tmp_path / "rest")
    assert left(rest)["rest"] == f"{NS * 1e-9 * size * samples / 60:.0f} min"
    done = Training("done", recipe, train(recipe, tmp_path / "run"))
    seconds = read_metrics(done.folder)[-1]["seconds"]
    found = left(done, rest)
    assert found["done"] == "done" and found["Together"] == found["rest"]
    assert found["rest"] == f"{seconds / (4 * recipe.batch_size) * samples / 60:.0f} min"


def test_episodes_that_have_a_file_are_done(tmp_path):
    (tmp_path / "there").touch()
    console = Console(record=True, width=80)
    print_plan([], [(tmp_path / "there", 50), (tmp_path / "missing", 1050)], console)
    assert re.search(r"1,050 of 1,100 episodes are left", console.export_text())
