"""A policy server for one test: `decider` answers, `url` is where."""

from collections.abc import Iterator

import pytest
from policy_server import FakeDecider, serving


@pytest.fixture
def decider() -> FakeDecider:
    return FakeDecider()


@pytest.fixture
def url(decider: FakeDecider) -> Iterator[str]:
    with serving(decider) as address:
        yield address
