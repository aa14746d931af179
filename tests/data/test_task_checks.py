"""Sentences that may be two spellings of one task are told from those of different tasks."""

import pytest

from ebt_policy.data.doctor.task_checks import spelling


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Pick up the cube", "pick up the cube."),
        ("Pick up the  cube", "Pick up the cube"),
        ("Pick up the cub", "Pick up the cube"),
        ("Put the block in the box", "Put the blocks in the box"),
        ("Grab the yelow bottle", "Grab the yellow bottle"),
    ],
)
def test_two_spellings_of_one_task(first, second):
    assert spelling(first, second) and spelling(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Push and open a window", "Push and close a window"),
        ("Move the cup to the left", "Move the cup to the right"),
        ("Rotate the faucet clockwise", "Rotate the faucet counter-clockwise"),
        ("Press a button", "Press a button from the top"),
        ("Sort bin 1", "Sort bin 2"),
        ("Pick up the red cube", "Pick up the red bottle"),
    ],
)
def test_two_tasks_with_similar_sentences(first, second):
    assert spelling(first, second) is None
