"""Recovery actions are taken in order, each for its number of decisions, and start again after a calm time."""

import pytest

from ebt_policy.errors import UserError
from ebt_policy.monitoring.recovery import Ladder, RecoveryState


def actions_taken(ladder: Ladder, alarms: str) -> list[str]:
    """The recovery action at each decision; alarms: "x" for an alarm, "." for none."""
    state, taken = RecoveryState(ladder), []
    for alarm in alarms:
        taken.append(state.step(alarm == "x"))
        state.done()
    return taken


def test_without_alarms_nothing_happens():
    assert actions_taken(Ladder(), "." * 20) == [""] * 20


def test_lasting_alarms_take_one_action_after_the_other_and_stay_on_the_last():
    ladder = Ladder(actions=("hold", "ask"), patience=2)
    assert actions_taken(ladder, "x" * 8) == ["hold"] * 2 + ["ask"] * 6


def test_after_a_calm_time_the_first_action_is_taken_again():
    ladder = Ladder(actions=("hold", "ask"), patience=1, memory=3)
    assert actions_taken(ladder, "x..x") == ["hold", "", "", "ask"]
    assert actions_taken(ladder, "x...x") == ["hold", "", "", "", "hold"]


def test_the_end_of_an_action_is_told_once():
    state = RecoveryState(Ladder(actions=("hold",), patience=2))
    state.step(True)
    assert not state.done()
    state.step(False)
    assert state.done()
    state.step(False)
    assert not state.done()


def test_unknown_actions_and_values_are_refused():
    with pytest.raises(UserError, match="Unknown recovery action 'pray'"):
        Ladder(actions=("pray",))
    with pytest.raises(UserError, match="patience"):
        Ladder(patience=0)
