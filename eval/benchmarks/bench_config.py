"""Options of a bench file, read from YAML. Imports no torch, so mistakes are reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ebt_policy.errors import UserError
from ebt_policy.monitoring.recovery import Ladder
from ebt_policy.suggestions import did_you_mean


@dataclass(frozen=True)
class Setting:
    """One line of the table: a trained policy with some inference options. curve: its line in the figures.

    max_evaluations, n_action_steps, overrides: see `load_runner`; None keeps the trained setting. ladder: recovery actions on
    alarms (see `Ladder`); alarms are calibrated first, on episodes without disturbance.
    """

    name: str
    curve: str
    max_evaluations: int | None = None
    n_action_steps: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ladder: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One policy to train (or, with `checkpoint`, to use as it is) and its settings.

    policy: options that replace those of the recipe's policy; another type keeps the options that it has too (the trunk's).
    train: dotted recipe keys for this row only. learning_curve: name of the setting to evaluate at every checkpoint.
    """

    name: str
    settings: tuple[Setting, ...]
    policy: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    training_seeds: tuple[int, ...] = (0,)
    learning_curve: str | None = None


@dataclass(frozen=True)
class BenchConfig:
    """A comparison of all rows with the setting `reference`, on the environment seeds seed, seed + 1, ...

    time_to: name of a setting; the report then says after how much training each learning curve reaches its final success.
    calibration_episodes, calibration_seed, alpha: calibration of the alarms, for settings with a ladder.
    """

    name: str
    env: str
    episodes: int
    seed: int
    recipe: str
    reference: str
    rows: tuple[Row, ...]
    train: Mapping[str, Any] = field(default_factory=dict)
    learning_curve_episodes: int = 100
    time_to: str | None = None
    calibration_episodes: int = 200
    calibration_seed: int = 300_000
    alpha: float = 0.1

    @property
    def settings(self) -> list[Setting]:
        return [setting for row in self.rows for setting in row.settings]


@dataclass(frozen=True)
class Suite:
    """The same comparison on one or several environments, each with its own policies."""

    name: str
    benches: tuple[BenchConfig, ...]
    several: bool  # whether the file has `tasks`


_ROW_KEYS = ("name", "evaluate", "policy", "train", "checkpoint", "training_seeds", "learning_curve")
_BENCH_KEYS = (
    *(f.name for f in fields(BenchConfig) if f.name != "name"),
    "training_seeds",
    "tasks",
)


def load_suite(path: str | Path) -> Suite:
    """Read and check a bench file, or a shipped one by its name (`bench_pusht`).

    A bench of several environments has `tasks` instead of `env`: a list of {env, train}, where `train` holds the recipe keys
    of that task (its dataset). Raises UserError naming the key that is missing, unknown or wrong.
    """
    path = Path(path)
    shipped = resources.files("ebt_policy.configs").joinpath(f"{path}.yaml")
    if not path.is_file() and not shipped.is_file():
        raise UserError(f"There is no bench file '{path}'. Give the path of a YAML file, or bench_pusht.")
    try:
        data = yaml.safe_load((path if path.is_file() else shipped).read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    _check(data, _BENCH_KEYS, ("episodes", "seed", "recipe", "reference", "rows"), str(path))
    several = "tasks" in data
    if several == ("env" in data):
        raise UserError(f"{path}: expected either 'env' or 'tasks'.")
    tasks = data.pop("tasks") if several else [{"env": data.pop("env")}]
    for task in tasks:
        _check(task, ("env", "train"), ("env",), f"{path}, tasks")
    seeds = data.pop("training_seeds", [0])
    rows = tuple(_row(row, seeds, path) for row in data.pop("rows"))
    config = BenchConfig(name=path.stem, env="", rows=rows, **data)
    names = [setting.name for setting in config.settings]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{path}: two settings are called '{name}'. Put what differs into the name, in braces."
            )
    for key, asked in (("reference", config.reference), ("time_to", config.time_to)):
        if asked is not None and asked not in names:
            raise UserError(
                f"{path}: {key} '{asked}' is none of the settings.{did_you_mean(asked, names)} "
                f"Settings: {', '.join(names)}."
            )
    benches = (
        replace(config, env=task["env"], train={**config.train, **task.get("train", {})}) for task in tasks
    )
    return Suite(path.stem, tuple(benches), several)


def _row(data: Any, seeds: list[int], path: Path) -> Row:
    where = f"{path}, row '{data.get('name', '?') if isinstance(data, Mapping) else data}'"
    _check(data, _ROW_KEYS, ("name", "evaluate"), where)
    data = dict(data)
    settings = [s for entry in data.pop("evaluate") for s in _settings(entry, data["name"], where)]
    if data.get("learning_curve") not in (None, *(s.name for s in settings)):
        raise UserError(f"{where}: learning_curve '{data['learning_curve']}' is none of its settings.")
    if data.get("checkpoint"):
        if data.keys() & {"policy", "train"}:
            raise UserError(
                f"{where}: a row has either a 'checkpoint' or something to train ('policy', 'train')."
            )
        seeds = [0]
    return Row(
        settings=tuple(settings), **(data | {"training_seeds": tuple(data.get("training_seeds", seeds))})
    )


def _settings(entry: Any, row: str, where: str) -> list[Setting]:
    """The settings of one entry of `evaluate`: all combinations of listed max_evaluations and n_action_steps."""
    _check(entry, tuple(f.name for f in fields(Setting)), (), f"{where}, evaluate")
    swept = {
        k: v if isinstance(v, list) else [v]
        for k in ("max_evaluations", "n_action_steps")
        if (v := entry.get(k))
    }
    made = []
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        overrides = dict(entry.get("overrides") or {})
        try:
            name = str(entry.get("name", row)).format(**chosen, **overrides)
        except KeyError as error:
            raise UserError(
                f"{where}: the name '{entry['name']}' uses {error}, which the entry does not set."
            ) from None
        ladder = tuple(entry.get("ladder") or ())
        Ladder(actions=ladder)  # raises for an unknown action
        made.append(
            Setting(name=name, curve=entry.get("curve", row), overrides=overrides, ladder=ladder, **chosen)
        )
    return made


def _check(data: Any, known: tuple[str, ...], required: tuple[str, ...], where: str) -> None:
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: expected a mapping of keys to values, found {data!r}.")
    for key in data:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'.{did_you_mean(str(key), list(known))}")
    for key in required:
        if data.get(key) in (None, []):
            raise UserError(f"{where}: '{key}' is missing.")
