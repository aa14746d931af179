"""The package's import graph: no circles, and every import points in the direction that docs/architecture.md draws."""

import ast

import architecture
import pytest
from architecture import OUTER, PAGE, WALKS, Stop, circles, module_graph, modules, room, room_graph, rooms_of

ENTRY = (
    "cli",
    "registration",
)  # compose everything; nothing in the core may need the envs, the arm or the measurements


def _users(importers: set[str], imported: set[str]) -> dict[str, list[str]]:
    """{module: what it imports of the rooms or folders `imported`} for modules whose first folder is in `importers`."""
    found = {}
    for module, targets in module_graph().items():
        bad = sorted(t for t in targets if t.split(".")[0] in imported)
        if module.split(".")[0] in importers and bad:
            found[module] = bad
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(module_graph()) == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    assert circles(room_graph()) == []


def test_the_core_knows_neither_envs_nor_hardware_nor_eval() -> None:
    core = {module.split(".")[0] for module in modules()} - {*OUTER, *ENTRY}
    assert {"model", "data", "training", "inference", "monitoring", "modeling_ebt"} <= core
    assert _users(core, {*OUTER, "cli"}) == {}


def test_envs_know_no_policy() -> None:
    allowed = {"envs", "errors", "extras", "provenance", "suggestions"}  # loose modules without policy code
    others = {module.split(".")[0] for module in modules()} - allowed
    assert _users({"envs"}, others) == {}


def test_hardware_knows_no_measurements_and_only_the_command_line_knows_the_command_line() -> None:
    assert _users({"hardware"}, {"eval"}) == {}
    assert _users({m.split(".")[0] for m in modules()} - {"cli"}, {"cli"}) == {}


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"e"}}
    assert circles(graph) == [["a", "b", "c"]]
    assert circles(graph | {"c": {"d"}}) == []


def test_rooms_are_sub_packages_and_loose_modules() -> None:
    assert room("model.descent") == "model"
    assert room("hardware.safety.filter") == "hardware.safety"
    assert room("hardware.deploy") == "hardware.deploy"
    assert room("modeling_ebt") == "modeling_ebt"


ENTRY_POINTS = {
    "hardware.sensing.observer": "hardware.deploy",
    "data.windows": "training.train",
}  # compose the walks


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
def test_a_walk_crosses_at_most_six_rooms_and_names_what_is_there(walk: tuple[Stop, ...]) -> None:
    assert len(rooms_of(walk)) <= 6
    for stop in walk:
        tree = ast.parse((architecture.ROOT / stop.file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert stop.symbol in names, f"{stop.file} has no {stop.symbol}"
    entry = ENTRY_POINTS[walk[0].module]
    used = {entry} | architecture.reachable(module_graph(), entry)
    used |= {"modeling_ebt"} | architecture.reachable(
        module_graph(), "modeling_ebt"
    )  # LeRobot imports it by its name
    assert {stop.module for stop in walk} <= used


def test_the_page_shows_the_graph_of_the_code_and_names_files_that_exist() -> None:
    text = PAGE.read_text()
    assert architecture.with_diagrams(text) == text, "run: python tests/architecture.py"
    assert architecture.missing_files(text) == []
