"""The ladder is climbed rung by rung, each for its time, and left when calm."""

import pytest

from ebt_policy.errors import UserError
from ebt_policy.monitoring.recovery import Climb, Ladder


def climb(ladder: Ladder, alarms: str) -> list[str]:
    """The rung at each decision; alarms: "x" for an alarm, "." for none."""
    climb, taken = Climb(ladder), []
    for alarm in alarms:
        taken.append(climb.step(alarm == "x"))
        climb.done()
    return taken


def test_nothing_happens_without_an_alarm():
    assert climb(Ladder(), "." * 20) == [""] * 20


def test_lasting_alarms_climb_rung_by_rung_and_stay_on_the_last():
    ladder = Ladder(rungs=("think", "hold", "ask"), patience=2)
    assert climb(ladder, "x" * 10) == ["think"] * 2 + ["hold"] * 2 + ["ask"] * 6


def test_calm_leads_back_to_the_first_rung():
    ladder = Ladder(rungs=("think", "hold"), patience=1, memory=3)
    assert climb(ladder, "x..x") == ["think", "", "", "hold"]
    assert climb(ladder, "x...x") == ["think", "", "", "", "think"]


def test_a_spent_rung_says_so_once():
    climb = Climb(Ladder(rungs=("think",), patience=2))
    climb.step(True)
    assert not climb.done()
    climb.step(False)
    assert climb.done()
    climb.step(False)
    assert not climb.done()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="Unknown rung 'pray'"):
        Ladder(rungs=("pray",))
    with pytest.raises(UserError, match="patience"):
        Ladder(patience=0)
