"""`ebt-policy envs`: the environments, and their simulation speed on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ebt_policy.envs.disturbance_spec import KINDS
from ebt_policy.envs.experts import experts
from ebt_policy.envs.registry import environment, environments
from ebt_policy.errors import UserError
from ebt_policy.provenance import write_json


@dataclass(frozen=True)
class EnvSpeed:
    """One environment. ticks_per_second: per second of CPU time of one process; None if its simulator is missing."""

    name: str
    fps: int
    max_ticks: int
    action_size: int
    has_expert: bool
    ticks_per_second: float | None
    missing: str = ""  # why


def overview(
    names: Sequence[str] = (),
    seconds: float = 3.0,
    json_path: Path | None = None,
    console: Console | None = None,
) -> list[EnvSpeed]:
    """Run each environment (all if `names` is empty) for `seconds` of CPU time with random actions; print a table."""
    console = console or Console()
    found = []
    with console.status("") as status:
        for name in names or environments():
            status.update(f"Running {name}")
            found.append(measure(name, seconds))
    print_overview(found, console)
    if json_path is not None:
        write_json(json_path, [asdict(env) for env in found])
    return found


def print_overview(found: Sequence[EnvSpeed], console: Console) -> None:
    """A table of at most 80 columns; why an environment does not run stands below it, each reason once."""
    reasons = list(dict.fromkeys(env.missing for env in found if env.ticks_per_second is None))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("environment", no_wrap=True)
    for column in ("ticks/s", "x real", "Hz", "limit", "actions"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("expert")
    for env in found:
        speed = env.ticks_per_second
        table.add_row(
            env.name,
            f"{speed:,.0f}" if speed is not None else f"({reasons.index(env.missing) + 1})",
            f"{speed / env.fps:,.0f}" if speed is not None else "",
            str(env.fps),
            str(env.max_ticks),
            str(env.action_size or ""),
            "yes" if env.has_expert else "",
        )
    console.print(table)
    for number, reason in enumerate(reasons, 1):
        console.print(
            Text(f"({number}) {reason}"), soft_wrap=True
        )  # not cut: the command in it is to be copied
    console.print(
        "ticks/s: simulated control steps for each second of CPU time; x real: that over the rate Hz; limit: ticks of an "
        "episode; expert: `ebt-policy collect` can record demonstrations."
    )
    console.print(
        f"With a disturbance: ENVIRONMENT+KIND:STRENGTH. Kinds (not all in each environment): {', '.join(KINDS)}."
    )


def measure(name: str, seconds: float) -> EnvSpeed:
    """Simulation speed in CPU time, without resets, so that other processes do not change it."""
    spec = environment(name)
    known = (name, spec.fps, spec.max_ticks)
    try:
        env = spec.make(False)
        env.reset(seed=0)
    except UserError as error:
        return EnvSpeed(*known, 0, name in experts(), None, str(error))
    env.action_space.seed(0)
    space: Any = env.action_space
    middle = (space.low + space.high) / 2
    ticks, spent = 0, 0.0
    while spent < seconds:
        # A tenth of the action range: with the full range arms hit themselves and the physics gets slow or unstable.
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
    return EnvSpeed(*known, int(np.prod(env.action_space.shape or ())), name in experts(), ticks / spent)
