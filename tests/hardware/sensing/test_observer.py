"""A robot's observations under the policy's names, or an error that says what is missing."""

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.hardware.sensing.observer import Observer

STATE, OBJECTS, TOP = "observation.state", "observation.environment_state", "observation.images.top"
JOINTS = ("shoulder", "elbow")
SHOWN = {
    "shoulder.pos": float,
    "elbow.pos": float,
    "environment_state.0": float,
    "top": (48, 64, 3),
    "wrist": (24, 32, 3),
}
NEEDS = {TOP: (3, 48, 64), OBJECTS: (1,), STATE: (2,)}


def test_it_picks_what_the_policy_needs_in_its_names_types_and_order():
    observer = Observer(NEEDS, SHOWN, 2, JOINTS)
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    floats = {"elbow.pos": 2.0, "environment_state.0": 3.0, "shoulder.pos": 1.0, "load": 9.0}
    seen = observer(floats, {"top": picture, "wrist": None})
    assert list(seen) == list(NEEDS)
    assert seen[STATE].tolist() == [1.0, 2.0]  # as the robot declares them, not as they come
    assert seen[OBJECTS].tolist() == [3.0]
    assert seen[STATE].dtype == seen[OBJECTS].dtype == np.float32
    assert seen[TOP].dtype == np.uint8
    assert np.array_equal(seen[TOP], picture.transpose(2, 0, 1))
    assert observer.cameras == ("top",)


@pytest.mark.parametrize(
    ("needs", "shown", "actions", "named"),
    [
        (NEEDS, SHOWN, 3, ("3 joints", "has 2", "shoulder, elbow")),
        (NEEDS | {STATE: (6,)}, SHOWN, 2, (STATE, "(6,)", "(2,)")),
        (NEEDS | {OBJECTS: (7,)}, SHOWN, 2, (OBJECTS, "(7,)", "(1,)")),
        (NEEDS, {k: v for k, v in SHOWN.items() if "." not in k or "pos" in k}, 2, (OBJECTS, "(1,)", "(0,)")),
        (NEEDS | {TOP: (3, 96, 96)}, SHOWN, 2, (TOP, "(3, 96, 96)", "(3, 48, 64)")),
        (NEEDS | {"observation.images.side": (3, 48, 64)}, SHOWN, 2, ("'side'", "top, wrist")),
        (NEEDS, {k: v for k, v in SHOWN.items() if v is float}, 2, ("'top'", "none")),
        (NEEDS | {"observation.effort": (2,)}, SHOWN, 2, ("observation.effort", "(2,)", "none")),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected_and_found(needs, shown, actions, named):
    with pytest.raises(UserError) as error:
        Observer(needs, shown, actions, JOINTS)
    for part in named:
        assert part in str(error.value)
