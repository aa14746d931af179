"""Two tasks, and a policy trained on them."""

from pathlib import Path

import pytest
from two_tasks import LEFT, RIGHT, make_dataset, recipe_for

from ebt_policy.training.train import train


@pytest.fixture(scope="session")
def two_tasks(tmp_path_factory) -> Path:
    """Four times as many episodes of one task as of the other."""
    root = tmp_path_factory.mktemp("two_tasks") / "data"
    make_dataset(root, [LEFT, RIGHT, LEFT, RIGHT, *[LEFT] * 6])
    return root


@pytest.fixture(scope="session")
def told(two_tasks, tmp_path_factory) -> Path:
    """A run of a policy that is told its task, as it is by default on these data."""
    return train(recipe_for(two_tasks), tmp_path_factory.mktemp("told") / "run")
