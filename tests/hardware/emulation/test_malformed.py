"""The fuzzer sends malformed messages of every kind, the same ones for the same seed."""

import random

from ebt_policy.hardware.emulation.malformed import (
    damaged_messages,
    generated_messages,
    good_messages,
    is_malformed,
    large_messages,
)


def test_what_is_sent_is_as_many_as_asked_for_malformed_and_of_every_kind():
    assert not any(map(is_malformed, good_messages()))
    damaged, invented, large = (
        damaged_messages(200, random.Random(0)),
        generated_messages(400),
        large_messages(4),
    )
    assert (len(damaged), len(set(invented)), len(large)) == (200, 400, 4)
    assert all(map(is_malformed, [*damaged, *invented, *large]))
    assert damaged == damaged_messages(200, random.Random(0))
