"""The page of a round: an intervention from the policy's start to the operator's end, beside the same seed after learning."""

from types import SimpleNamespace

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks import takeover_page
from ebt_policy.eval.benchmarks.takeover_operator import Intervention
from ebt_policy.eval.benchmarks.takeover_page import write_round_page
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.model.trace import Trace

FACTS = [
    {"env": f"pusht_keypoints+{kind}", "seed": seed, "tick": 16, "ticks": 5, "solved": True}
    for kind, first in (("teleport", 100), ("start", 200))
    for seed in range(first, first + 4)
]
PICTURE = np.zeros((16, 16, 3), np.uint8)


def decision(energy: float) -> Trace:
    one = np.full((1, 1), energy)
    trace = Trace(one, one, one, np.ones(1, int), np.zeros(1, np.int8), 0.0)
    trace.old_plan_energy = np.array([energy])
    return trace


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list:
    """In place of the simulator: before learning the policy is helped at tick 16 for 5 ticks; after it, it solves even seeds."""
    calls: list = []

    def rollout(runner, env, seeds, *, record, operator=None):
        calls.append((runner, env, tuple(seeds)))
        episodes = []
        for seed in seeds:
            ticks = 16 if operator else 40
            solved = operator is None and seed % 2 == 0
            energies = [0.1, 0.2, 5.0] if operator else [0.1] * 5
            traces, begins = [decision(e) for e in energies], [8 * i for i in range(len(energies))]
            watch = SimpleNamespace(readings=[SimpleNamespace(alarm=e > 1) for e in energies])
            episode = Episode(
                seed,
                env,
                solved,
                1.0,
                1.0,
                ticks,
                ticks if solved else None,
                8,
                len(traces),
                2,
                2,
                0.1,
                0.1,
                traces,
            )
            episode.frames, episode.coverages = [PICTURE] * (ticks + 1), [0.0] * ticks
            episode.decision_ticks, episode.watch = begins, watch
            episode.disturbance = {"kind": "teleport", "strength": 1.0, "begin": 18, "end": 19}
            episodes.append(episode)
            if operator:
                operator.interventions.append(Intervention(env, seed, 16, 5, True, {}, [PICTURE] * 5))
        return episodes

    monkeypatch.setattr(takeover_page, "rollout", rollout)
    monkeypatch.setattr(
        takeover_page, "ScriptedOperator", lambda *_, film: SimpleNamespace(interventions=[], film=film)
    )
    return calls


def written(path, each: int = 2) -> str:
    return write_round_page(
        path, "Round 1", FACTS, each, lambda: "before", lambda: "after", lambda *_: True, 50
    ).read_text()


def test_the_first_interventions_of_each_disturbance_are_played_by_both(played, tmp_path):
    page = written(tmp_path / "interventions.html")
    assert played == [
        (runner, f"pusht_keypoints+{kind}", (first, first + 1))
        for kind, first in (("teleport", 100), ("start", 200))
        for runner in ("before", "after")
    ]
    assert page.count("<video") == 8 and "of 4 it now solves 2 alone" in page


def test_the_operators_part_is_marked_and_what_happened_in_it_is_kept(played, tmp_path):
    page = written(tmp_path / "interventions.html", each=1)
    assert page.count('class="driven"') == 2 and "where it is green, the operator drives" in page
    assert page.count("the operator took over at tick 16: solved at tick 21") == 2 * 2  # caption and label
    assert "ALARM" in page and "teleport 1, tick 18" in page


def test_an_episode_that_is_not_the_same_again_is_said(played, tmp_path, monkeypatch):
    monkeypatch.setattr(
        takeover_page,
        "ScriptedOperator",
        lambda *_, film: SimpleNamespace(interventions=Forgets(), film=film),
    )
    with pytest.raises(UserError, match="nobody took over, but round.json says so"):
        written(tmp_path / "interventions.html")


class Forgets(list):
    def append(self, one) -> None:
        pass
