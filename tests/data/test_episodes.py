"""The first episodes of each task, counted task by task."""

import pytest

from ebt_policy.data.episodes import first_of_each_task
from ebt_policy.errors import UserError

SENTENCES = {0: "lift", 2: "push", 3: "lift", 5: "push", 7: "lift"}


def test_the_first_of_each_task_in_the_order_given():
    assert first_of_each_task(SENTENCES, 1) == [0, 2]
    assert first_of_each_task(SENTENCES, 2) == [0, 2, 3, 5]
    backwards = dict(reversed(SENTENCES.items()))
    assert first_of_each_task(backwards, 1) == [7, 5]


def test_a_task_with_fewer_is_named():
    with pytest.raises(UserError, match="'push' has 2"):
        first_of_each_task(SENTENCES, 3)
    with pytest.raises(UserError, match="at least 1, found 0"):
        first_of_each_task(SENTENCES, 0)
