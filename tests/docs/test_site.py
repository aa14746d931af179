"""The parts of the documentation that are generated from the code."""

import dataclasses
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs" / "tools"))

import option_reference  # noqa: E402
import site_hooks  # noqa: E402
import speed_plot  # noqa: E402


@pytest.mark.parametrize("cls", option_reference.POLICY.values(), ids=lambda cls: cls.__name__)
def test_each_option_of_a_policy_has_a_unit_and_a_reason(cls: type) -> None:
    found = option_reference.options(cls)
    assert found
    for option in found:
        assert option.unit, f"{cls.__name__}.{option.name} has no [unit] in the text under it"
        assert option.text, f"{cls.__name__}.{option.name} has no text under it"


@pytest.mark.parametrize("cls", option_reference.OTHERS.values(), ids=lambda cls: cls.__name__)
def test_every_other_option_has_a_text(cls: type) -> None:
    assert [option.name for option in option_reference.options(cls) if not option.text] == []


def test_texts_are_found_wherever_they_stand() -> None:
    @dataclasses.dataclass
    class Example:
        """above: in the docstring, and more. speed, height: shared."""

        above: int = 1
        speed: int = 2
        height: int = 3
        beside: float = 4.0  # a comment
        # A comment
        # of two lines.
        over: str = "x"
        under: bool = True
        """[seconds] A docstring
        of two lines."""

    found = {o.name: (o.unit, o.default, o.text) for o in option_reference.options(Example)}
    assert found == {
        "above": ("", "1", "in the docstring, and more."),
        "speed": ("", "2", "shared."),
        "height": ("", "3", "shared."),
        "beside": ("", "4.0", "a comment"),
        "over": ("", "'x'", "A comment of two lines."),
        "under": ("seconds", "True", "A docstring of two lines."),
    }


def test_the_reference_has_every_room_and_module() -> None:
    rooms = {
        path.name
        for path in (ROOT / "ebt_policy").iterdir()
        if path.is_dir() and (path / "__init__.py").is_file()
    }
    assert rooms - {"cli", "configs"} <= set(site_hooks.ROOMS)
    assert "ebt_policy.hardware.deploy" in site_hooks._modules("hardware")


def test_the_plot_is_that_of_the_results() -> None:
    points = speed_plot.read_points()
    assert {"EBT-2", "DDIM-10", "DDPM-100", "Flow-10", "Two-pass regression (MIP)"} <= {
        p.name for p in points
    }
    assert (ROOT / "docs" / "success_by_time.svg").read_text() == speed_plot.draw(points), (
        "run docs/tools/speed_plot.py"
    )
