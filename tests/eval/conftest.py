"""For all tests of eval."""

from collections.abc import Iterator
from functools import partial

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_latency() -> Iterator[None]:
    """An evaluation times the decisions of one more episode instead of five."""
    from ebt_policy.eval.rollout import evaluate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "measure_latency", partial(evaluate.measure_latency, decisions=20))
        yield
