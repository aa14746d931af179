"""Joint names are read from every form in which LeRobot datasets store them."""

import pytest

from ebt_policy.data.feature_names import feature_names


@pytest.mark.parametrize(
    "names",
    [["a", "b"], ("a", "b"), {"motors": ["a", "b"]}, {"a": 0, "b": 1}, {"b": 1, "a": 0}, [["a", "b"]]],
)
def test_every_form_gives_the_list_in_column_order(names):
    assert feature_names({"action": {"shape": (2,), "names": names}}, "action") == ["a", "b"]


@pytest.mark.parametrize("names", [None, [], ["a"], {"motors": ["a", "b", "c"]}])
def test_names_that_do_not_name_every_entry_are_none(names):
    assert feature_names({"action": {"shape": (2,), "names": names}}, "action") is None
    assert feature_names({}, "action") is None
