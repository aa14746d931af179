"""Fixtures: `url` of a policy server that answers with `decider`, and `twin`, which makes connected twins."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from policy_server import FakeDecider, serving
from sim_twin import twins

from ebt_policy.hardware.sim.sim_robot import SimRobot


@pytest.fixture
def decider() -> FakeDecider:
    return FakeDecider()


@pytest.fixture
def url(decider: FakeDecider) -> Iterator[str]:
    with serving(decider) as address:
        yield address


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SimRobot]]:
    yield from twins(tmp_path, monkeypatch)
