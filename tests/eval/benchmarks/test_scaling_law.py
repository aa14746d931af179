"""Slopes are those of the errors that were put in, compared with the same held-out episodes drawn for every method."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from two_tasks import LEFT, RIGHT, make_dataset, recipe_for

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.action_error import squared_errors
from ebt_policy.eval.benchmarks.bench_config import load_suite
from ebt_policy.eval.benchmarks.scaling_cells import BUDGETS, Cell, method_name, sampler
from ebt_policy.eval.benchmarks.scaling_law import AXES, main, slopes
from ebt_policy.training.train import train

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "bench_scaling.yaml"
EPISODES, STEPS, BATCH = 60, 100, 8


def cell(
    method: str, demonstrations: int, parameters: int, power: float, seeds: int = 1, spread: float = 0.0
) -> Cell:
    """The error falls with demonstrations to that power, and with parameters to the power -.1; episodes differ in difficulty, and with
    `spread` in the power."""
    steps, rng = STEPS, np.random.default_rng(0)
    difficulty = rng.uniform(0.5, 2.0, (seeds, EPISODES))
    powers = power + spread * rng.uniform(-1, 1, (seeds, EPISODES))
    error = demonstrations**powers * parameters**-0.1 * difficulty
    squared = dict.fromkeys(BUDGETS, error**2)
    return Cell(method, demonstrations, parameters, parameters, steps, steps * BATCH, squared)


def grid(method: str, power: float, **options: float) -> list[Cell]:
    """One thing changed at a time, the base cell in both."""
    changed = [(5, 100), (10, 100), (50, 100), (50, 10), (50, 1000)]
    return [cell(method, n, size, power, **options) for n, size in changed]


def test_slopes_are_those_of_the_errors_along_each_axis_alone():
    found = {(s.axis, s.budget, s.method): s for s in slopes(grid("EBT", -0.5) + grid("flow", -0.3), "EBT")}
    assert len(found) == len(AXES) * len(BUDGETS) * 2
    for budget in BUDGETS:
        assert found["demonstrations", budget, "EBT"].slope.estimate == pytest.approx(-0.5)
        assert found["demonstrations", budget, "flow"].slope.estimate == pytest.approx(-0.3)
        assert found["parameters", budget, "flow"].slope.estimate == pytest.approx(-0.1)
        assert found["FLOPs", budget, "EBT"].slope.estimate == pytest.approx(-0.1)
        more = found["demonstrations", budget, "flow"].more
        assert more.estimate == pytest.approx(0.2) and more.low > 0
        assert found["demonstrations", budget, "EBT"].more is None


def test_a_slope_is_over_the_cells_that_every_method_has():
    more = [*grid("EBT", -0.5), cell("EBT", 2, 100, -5.0), *grid("flow", -0.5)]
    assert slopes(more, "EBT") == slopes(grid("EBT", -0.5) + grid("flow", -0.5), "EBT")


def test_what_episodes_do_to_all_methods_alike_does_not_widen_their_difference():
    cells = grid("EBT", -0.5, spread=0.4) + grid("flow", -0.3, spread=0.4)
    found = {(s.axis, s.budget, s.method): s for s in slopes(cells, "EBT")}
    own, more = found["demonstrations", 2, "flow"].slope, found["demonstrations", 2, "flow"].more
    assert own.high - own.low > 0.01
    assert (more.low, more.high) == (pytest.approx(0.2), pytest.approx(0.2))


def test_episodes_that_a_method_alone_finds_hard_widen_the_difference():
    noisy = [
        dataclasses.replace(
            one,
            squared={
                b: e * np.random.default_rng(i).lognormal(0, 2, e.shape) for b, e in one.squared.items()
            },
        )
        for i, one in enumerate(grid("flow", -0.5))
    ]
    found = {(s.axis, s.budget, s.method): s for s in slopes(grid("EBT", -0.5) + noisy, "EBT")}
    more = found["demonstrations", 2, "flow"].more
    assert more.low < 0 < more.high


def test_cells_that_cannot_be_compared_are_refused():
    with pytest.raises(UserError, match="no training of 'EBT'; found flow"):
        slopes(grid("flow", -0.5), "EBT")
    with pytest.raises(UserError, match="differ in their demonstrations alone"):
        slopes([cell("EBT", 5, 10, -1), cell("EBT", 10, 100, -1)], "EBT")
    with pytest.raises(UserError, match="as many in every cell"):
        slopes([*grid("EBT", -0.5), cell("EBT", 25, 100, -0.5, seeds=2)], "EBT")


def test_the_shipped_bench_changes_one_thing_at_a_time_for_every_method():
    rows = load_suite(SHIPPED).benches[0].rows
    changes: dict[str, list] = {}
    for row in rows:
        method = row.policy.get("method", "EBT")
        options = {k: v for k, v in row.policy.items() if k not in ("type", "method")}
        changes.setdefault(method, []).append(options | dict(row.train))
    ebt, *others = changes.values()
    assert len(others) == 3 and all(other == ebt for other in others)
    assert all(len(change.keys() - {"optimizer.lr"}) <= 1 for change in ebt)
    assert {"width", "steps", "dataset.episodes_per_task"} <= {key for change in ebt for key in change}
    assert yaml.safe_load(SHIPPED.read_text())["train"]["dataset.held_out_fraction"] == 0


@pytest.fixture(scope="module")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings of two methods and widths on two and on three episodes of each task."""
    folder = tmp_path_factory.mktemp("scaling")
    make_dataset(folder / "data", [LEFT, RIGHT] * 3)
    make_dataset(folder / "new", [LEFT, RIGHT], done=[LEFT, RIGHT])
    for kind, options in {
        "ebt": {"type": "ebt"},
        "flow": {"type": "matched_baseline", "method": "flow"},
        "diffusion": {"type": "matched_baseline", "method": "diffusion"},
    }.items():
        for name, width, per_task in (("base", 16, 3), ("fewer", 16, 2), ("wider", 24, 3)):
            recipe = recipe_for(folder / "data", **options, width=width)
            data = dataclasses.replace(recipe.dataset, episodes_per_task=per_task)
            few = dataclasses.replace(recipe, steps=3, dataset=data)
            train(few, folder / "train" / f"{kind}-{name}-seed0")
    return folder


def test_the_command_measures_every_training_and_writes_both_tables(bench_folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(bench_folder))
    monkeypatch.setattr(
        "ebt_policy.eval.benchmarks.scaling_cells.squared_errors",
        lambda run, held_out, **options: squared_errors(run, held_out, bench_folder / "new", **options),
    )
    main([str(bench_folder), "--held-out", "tests/other"])
    with (bench_folder / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["demonstrations"]) for row in rows} == {
        (method, n) for method in ("EBT", "flow", "diffusion") for n in ("4", "6")
    }
    assert len(rows) == 9 and all(float(row["error_2"]) > 0 for row in rows)
    assert len((bench_folder / "scaling_slopes.csv").read_text().splitlines()) == 1 + 3 * 2 * 3
    shown = capsys.readouterr().out
    assert "Slopes" in shown and "diffusion" in shown


def test_a_folder_without_trainings_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--held-out", "tests/other"])
    assert "no finished training" in capsys.readouterr().err


def test_diffusion_in_few_evaluations_is_ddim_from_the_highest_level(bench_folder):
    of = {kind: recipe_for(bench_folder, type=kind) for kind in ("ebt", "matched_baseline")}
    assert (method_name(of["ebt"]), sampler(of["ebt"])) == ("EBT", {})
    diffusion = recipe_for(bench_folder, type="matched_baseline", method="diffusion")
    assert sampler(diffusion) == {"sampler": "ddim", "timestep_spacing": "trailing"}
