"""What there is to act in, and how fast it runs here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from ebt_policy.envs.disturbances.exposure import KINDS
from ebt_policy.envs.experts import experts
from ebt_policy.envs.registry import environment, environments
from ebt_policy.errors import UserError
from ebt_policy.provenance import write_json


@dataclass(frozen=True)
class EnvSpeed:
    """An environment's facts; ticks_per_second of CPU time of one process, None where its simulator is missing."""

    name: str
    fps: int
    max_ticks: int
    action_size: int
    has_expert: bool
    ticks_per_second: float | None
    missing: str = ""


def overview(
    names: Sequence[str] = (),
    seconds: float = 3.0,
    json_path: Path | None = None,
    console: Console | None = None,
) -> list[EnvSpeed]:
    """Run each environment (all where `names` is empty) for `seconds` under random actions and print a table."""
    console = console or Console()
    found = []
    with console.status("") as status:
        for name in names or environments():
            status.update(f"Running {name}")
            found.append(measure(name, seconds))
    table = Table(
        Column("environment", no_wrap=True), "ticks/s", "x real", "Hz", "limit", "actions", "expert"
    )
    for env in found:
        speed = env.ticks_per_second
        table.add_row(
            env.name,
            f"{speed:,.0f}" if speed else env.missing,
            f"{speed / env.fps:,.0f}" if speed else "",
            str(env.fps),
            str(env.max_ticks),
            str(env.action_size or ""),
            "yes" if env.has_expert else "",
        )
    console.print(table)
    console.print(
        f"With a disturbance: ENVIRONMENT+KIND:STRENGTH; kinds, where they apply: {', '.join(KINDS)}."
    )
    if json_path is not None:
        write_json(json_path, [asdict(env) for env in found])
    return found


def measure(name: str, seconds: float) -> EnvSpeed:
    """Ticks per second of this process's CPU time, resets left out: what other processes do does not count."""
    spec = environment(name)
    facts = (name, spec.fps, spec.max_ticks)
    try:
        env = spec.make(False)
        env.reset(seed=0)
    except UserError as error:
        return EnvSpeed(*facts, 0, name in experts(), None, str(error))
    env.action_space.seed(0)
    space: Any = env.action_space
    middle = (space.low + space.high) / 2
    ticks, spent = 0, 0.0
    while spent < seconds:
        # A tenth of the range: at the full one arms collide with themselves, and physics slows down or blows up.
        actions = [middle + 0.1 * (env.action_space.sample() - middle) for _ in range(spec.max_ticks)]
        env.reset(seed=ticks)
        begin = time.process_time()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            ticks += 1
            if terminated or truncated:
                break
        spent += time.process_time() - begin
    env.close()
    return EnvSpeed(*facts, int(np.prod(env.action_space.shape or ())), name in experts(), ticks / spent)
