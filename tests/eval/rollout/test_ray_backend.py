"""A Ray cluster gives the same episodes as local processes, also when a worker dies."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
from untrained_policies import StubRunner

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.evaluate import evaluate
from ebt_policy.eval.rollout.parallel import run_episodes
from ebt_policy.eval.rollout.ray_backend import Cluster

ray = pytest.importorskip("ray")
LOCAL = Cluster("local", processes=2)


@pytest.fixture(scope="module", autouse=True)
def runtime():
    """A real local runtime of two workers, which know nothing of this file unless it travels along."""
    for module in (sys.modules[__name__], sys.modules[StubRunner.__module__]):
        ray.cloudpickle.register_pickle_by_value(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 would let the other tests run first: minutes
        yield
    ray.shutdown()


class Mortal(StubRunner):
    """Its worker is killed in the middle of an episode, once."""

    def __init__(self, killed: Path) -> None:
        self.killed, self.decisions = killed, 0

    def decide(self, observations, noise, previous=None):
        self.decisions += 1
        if self.decisions == 5 and not self.killed.exists():
            self.killed.touch()
            os._exit(1)
        return super().decide(observations, noise, previous)


def refuse() -> StubRunner:
    raise UserError("this checkpoint is broken")


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_progress_reaches_all(tmp_path: Path) -> None:
    make, seeds, killed = partial(Mortal, tmp_path / "killed"), range(6), tmp_path / "killed"
    done = run_episodes(make, "pusht_keypoints", seeds, group_size=2, cluster=LOCAL, show_progress=False)
    assert killed.exists()
    expected = run_episodes(StubRunner, "pusht_keypoints", seeds, group_size=2, show_progress=False)
    assert [e.seed for e in done] == list(seeds)
    for field in ("success", "max_coverage", "final_coverage", "ticks", "decisions"):
        assert [getattr(e, field) for e in done] == [getattr(e, field) for e in expected]


@pytest.mark.slow
def test_a_mistake_reaches_the_user_as_it_is() -> None:
    with pytest.raises(UserError, match="^this checkpoint is broken$"):
        run_episodes(refuse, "pusht_keypoints", range(2), cluster=LOCAL, show_progress=False)


@pytest.mark.slow
def test_a_checkpoint_travels_to_the_workers(checkpoint) -> None:
    settings = {"episodes": 2, "group_size": 1, "latency": False, "show_progress": False}
    there = evaluate(checkpoint("ebt"), **settings, cluster=LOCAL)
    here = evaluate(checkpoint("ebt"), **settings, processes=1)
    assert [e.max_coverage for e in there.rows] == [e.max_coverage for e in here.rows]
    assert there.checkpoint_sha256 == here.checkpoint_sha256
