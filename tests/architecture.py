"""The import graph of the package, read from its source: for tests/test_architecture.py and docs/architecture.md.

    python tests/architecture.py            # writes the diagrams into docs/architecture.md

A room is a sub-package such as `model` or `hardware.safety`. A module that lies loose in ebt_policy/, envs/, eval/ or
hardware/ is a room of its own.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "ebt_policy"
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
OUTER = ("envs", "hardware", "eval")  # folders of the checkout whose own sub-packages are rooms
Graph = Mapping[str, set[str]]


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name below `ebt_policy`, e.g. `model.descent`; packages have their __init__."""
    found = {}
    for folder in sorted({ROOT / PACKAGE, *(ROOT / name for name in (*OUTER, "configs"))}):
        base = ROOT / PACKAGE if folder.name == PACKAGE else ROOT
        for path in folder.rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            if folder.name == PACKAGE and parts[0] in (*OUTER, "configs"):
                continue  # a symbolic link to the folder itself
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name:
                found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere: at the top, in functions and for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE:
                found.add(_module(name.split(".")[1:]))
    return found - {""}


def _module(parts: list[str]) -> str:
    """The longest known module that a dotted name begins with: the rest is a name inside of it."""
    while parts and ".".join(parts) not in modules():
        parts = parts[:-1]
    return ".".join(parts)


@cache
def module_graph() -> Graph:
    return {name: imports(path) - {name} for name, path in modules().items()}


def room(module: str) -> str:
    """`model` of model.descent, `hardware.safety` of hardware.safety.filter, `hardware.deploy` of hardware.deploy."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] in OUTER else parts[0]


@cache
def room_graph() -> Graph:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, imported in module_graph().items():
        graph[room(module)] |= {room(name) for name in imported} - {room(module)}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of two and more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


@dataclass(frozen=True)
class Stop:
    """One place on a walk. where: "module.path:name" below ebt_policy; does: what happens there."""

    where: str
    does: str

    @property
    def module(self) -> str:
        return self.where.partition(":")[0]

    @property
    def symbol(self) -> str:
        return self.where.partition(":")[2]

    @property
    def file(self) -> Path:
        return modules()[self.module].relative_to(ROOT)


WALKS: dict[str, tuple[Stop, ...]] = {
    "From an observation to a command of the arm": (
        Stop(
            "hardware.sensing.observer:Observer",
            "names, units and time stamps of what the arm and cameras give",
        ),
        Stop("hardware.control.loop:ControlLoop", "asks for a plan, blends plans, keeps the period"),
        Stop(
            "hardware.planners.local_planner:LocalPlanner",
            "observation history and plan memory of one episode",
        ),
        Stop("inference.runner:Runner", "normalises, checks, decides, restores units"),
        Stop("model.descent:minimise", "lowers the energy of a chunk, step by step"),
        Stop("hardware.safety.safe_robot:SafeRobot", "limits, then sends to the motors"),
    ),
    "From a dataset row to a gradient": (
        Stop("data.windows:Windows", "observation and action windows of a LeRobot dataset, as batches"),
        Stop("training.train:train", "processors, schedule, EMA, checkpoints"),
        Stop("modeling_ebt:EBTPolicy", "`forward`: context of the observation, loss of the chunk"),
        Stop(
            "model.objectives:denoise",
            "squared error of the chunk recovered from noise; its gradient trains the energy",
        ),
    ),
}


def rooms_of(walk: Iterable[Stop]) -> list[str]:
    return list(dict.fromkeys(room(stop.module) for stop in walk))


def mermaid_walk(walk: tuple[Stop, ...]) -> str:
    lines = ["flowchart TD"]
    for i, stop in enumerate(walk):
        lines.append(f'  s{i}["<b>{stop.file.as_posix()}</b><br/>{stop.symbol}: {stop.does}"]')
    lines += [f"  s{i} --> s{i + 1}" for i in range(len(walk) - 1)]
    return "\n".join(lines)


def mermaid_rooms() -> str:
    """The sub-packages; an arrow means "imports". Arrows that follow from others are left out, and so is `registration`, which
    tells LeRobot of everything.
    """
    graph: dict[str, set[str]] = defaultdict(set)
    for module, imported in module_graph().items():
        if module != "registration":
            graph[module.split(".")[0]] |= {m.split(".")[0] for m in imported} - {"registration"}
    nodes = sorted({m.split(".")[0] for m in modules() if "." in m} - {"configs"})
    reach = {node: reachable(graph, node) for node in nodes}
    edges = []
    for node in nodes:
        others = {n for n in nodes if n in reach[node] and n != node}
        direct = {o for o in others if not any(o in reach[via] for via in others if via != o)}
        edges += [f"  {node} --> {other}" for other in sorted(direct)]
    return "\n".join(["flowchart TD", *(f"  {node}[{node}/]" for node in nodes), *edges])


def reachable(graph: Graph, start: str) -> set[str]:
    """Everything that `start` imports, directly or not."""
    found: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph.get(node, ())
    return found


def diagrams() -> dict[str, str]:
    """Mermaid text by the name that its block has in docs/architecture.md."""
    return {"rooms": mermaid_rooms()} | {
        title.lower().replace(" ", "-"): mermaid_walk(walk) for title, walk in WALKS.items()
    }


def with_diagrams(page: str) -> str:
    """The page with each block `<!-- diagram: NAME -->` + ```mermaid fence replaced by what the code says now."""
    for name, text in diagrams().items():
        pattern = re.compile(rf"(<!-- diagram: {re.escape(name)} -->\n)```mermaid\n.*?```\n", re.DOTALL)
        page, count = pattern.subn(lambda m, text=text: f"{m[1]}```mermaid\n{text}\n```\n", page)
        if count != 1:
            raise ValueError(
                f"expected one block '<!-- diagram: {name} -->' with a mermaid fence, found {count}"
            )
    return page


def missing_files(page: str) -> list[str]:
    """Paths in backticks on the page that are neither a file nor a folder of the checkout."""
    paths = re.findall(r"`((?:\w+/)*[\w.]+\.(?:py|md|yaml|toml)|(?:\w+/)+)`", page)
    return [p for p in paths if not (ROOT / p).exists() and not (ROOT / PACKAGE / p).exists()]


if __name__ == "__main__":
    PAGE.write_text(with_diagrams(PAGE.read_text()))
