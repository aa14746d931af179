import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench import _recipe, bench
from ebt_policy.eval.benchmarks.bench_config import BenchConfig, load_suite
from ebt_policy.eval.benchmarks.bench_file import bench_kind
from ebt_policy.eval.benchmarks.bench_report import training_sentence
from ebt_policy.eval.rollout.episodes import read_parquet

SHIPPED = Path(__file__).parents[3] / "configs" / "bench_pusht.yaml"
ALL_BENCHES = SHIPPED.parent.glob("bench_*.yaml")


def load_bench(path: Path | str) -> BenchConfig:
    (only,) = load_suite(path).benches
    return only


def write(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def config(tmp_path: Path, tiny_dataset: tuple[str, Path]) -> dict:
    """A bench of two rows and three settings that trains for four steps."""
    repo_id, root = tiny_dataset
    recipe = {
        "policy": {"type": "ebt", "width": 16, "layers": 1, "start": "noise"},
        "dataset": {"repo_id": repo_id, "root": str(root), "held_out_fraction": 0.25},
        "steps": 4,
        "batch_size": 8,
        "warmup_steps": 1,
        "log_every": 2,
        "eval_every": 2,
        "checkpoint_every": 2,
        "precision": "fp32",
        "device": "cpu",
    }
    return {
        "env": "pusht_keypoints",
        "episodes": 2,
        "seed": 100_000,
        "recipe": str(write(tmp_path / "tiny.yaml", recipe)),
        "reference": "Flow-2",
        "learning_curve_episodes": 1,
        "time_to": "Flow-2",
        "rows": [
            {
                "name": "EBT",
                "learning_curve": "EBT-1",
                "evaluate": [{"name": "EBT-{max_evaluations}", "max_evaluations": [1, 2]}],
            },
            {
                "name": "Flow",
                "policy": {"type": "matched_baseline", "method": "flow"},
                "evaluate": [{"name": "Flow-{max_evaluations}", "max_evaluations": 2}],
            },
        ],
    }


def test_an_interrupted_bench_goes_on_at_the_missing_row(config: dict, tmp_path: Path) -> None:
    file, output = write(tmp_path / "bench.yaml", config), tmp_path / "out"
    page = bench(file, output, processes=1, show_progress=False)
    assert page is not None
    rows = output / "rows"
    names = {"ebt-1-seed0", "ebt-2-seed0", "flow-2-seed0", "ebt-1-seed0-step000002", "ebt-1-seed0-step000004"}
    assert {p.stem for p in rows.iterdir()} == names
    policy = output / "train" / "flow-seed0" / "checkpoints" / "last" / "pretrained_model"
    saved = json.loads((policy / "config.json").read_text())
    assert (saved["width"], saved["layers"]) == (16, 1)  # the trunk of the row that it is compared with

    written = {p: p.stat().st_mtime_ns for p in rows.iterdir()}
    lost = rows / "flow-2-seed0.parquet"
    before, _ = read_parquet(lost)
    lost.unlink()
    time.sleep(0.01)
    assert bench(file, output, processes=1, show_progress=False) == page
    again, _ = read_parquet(lost)
    assert [e.max_coverage for e in again] == [e.max_coverage for e in before]
    assert {p for p in rows.iterdir() if p.stat().st_mtime_ns != written[p]} == {lost}

    text = (output / "report.md").read_text()
    for said in (
        "EBT-1",
        "EBT-2",
        "Flow-2",
        "reference",
        "Wilson",
        "McNemar",
        "EMA",
        "Minutes of training until the final success of Flow-2",
        "Success while training",
    ):
        assert said in text
    assert "Success against function evaluations" in page.read_text()


@pytest.mark.slow
def test_trainings_at_once_give_the_same_policies_and_a_failure_names_its_log(
    config: dict, tmp_path: Path
) -> None:
    config |= {"train": {"compile": False, "threads": 1}}
    file = write(tmp_path / "bench.yaml", config)
    one, both = tmp_path / "one", tmp_path / "both"
    for output, trainings in ((one, 1), (both, 2)):
        assert bench(file, output, processes=1, show_progress=False, trainings=trainings)
    weights = "checkpoints/last/pretrained_model/model.safetensors"
    for run in ("ebt-seed0", "flow-seed0"):
        assert (one / "train" / run / weights).read_bytes() == (both / "train" / run / weights).read_bytes()
    assert "step 4/4" in (both / "train" / "ebt-seed0.log").read_text()

    (both / "train" / "flow-seed0" / "recipe.yaml").write_text("steps: 7")
    config["train"] |= {"steps": 6}
    with pytest.raises(UserError, match=r"Flow, seed 0 failed: .*flow-seed0\.log"):
        bench(write(file, config), both, processes=1, show_progress=False, trainings=2)


def test_rows_can_be_done_one_by_one(config: dict, tmp_path: Path) -> None:
    file, output = write(tmp_path / "bench.yaml", config), tmp_path / "out"
    assert bench(file, output, rows=["Flow"], processes=1, show_progress=False) is None
    assert {p.stem for p in (output / "rows").iterdir()} == {"flow-2-seed0"}
    assert not (output / "report.md").exists()
    with pytest.raises(UserError, match="no row 'Flw'.*'Flow'"):
        bench(file, output, rows=["Flw"], show_progress=False)


def test_several_tasks_have_one_overview(config: dict, tmp_path: Path) -> None:
    env = config.pop("env")
    config["tasks"] = [{"env": env}, {"env": "aloha_insertion", "train": {"seed": 3}}]
    config["rows"] = config["rows"][1:]
    file, output = write(tmp_path / "bench.yaml", config), tmp_path / "out"
    suite = load_suite(file)
    assert [one.train for one in suite.benches] == [{}, {"seed": 3}]
    assert bench(file, output, tasks=[env], processes=1, show_progress=False) is None
    assert (output / env / "report.md").is_file()
    assert {p.name for p in output.iterdir()} == {env}
    with pytest.raises(UserError, match="no task 'aloha'.*aloha_insertion"):
        bench(file, output, tasks=["aloha"], show_progress=False)

    config["tasks"] = config["tasks"][:1]
    assert bench(write(file, config), output, processes=1, show_progress=False) == output / "report.html"
    text = (output / "report.md").read_text()
    assert "| Flow-2 | reference |" in text
    assert env in text


def test_results_of_another_setting_are_not_taken_for_these(config: dict, tmp_path: Path) -> None:
    config["rows"] = config["rows"][1:]
    output = tmp_path / "out"
    bench(write(tmp_path / "bench.yaml", config), output, processes=1, show_progress=False)
    config["seed"] = 7
    bench(write(tmp_path / "bench.yaml", config), output, processes=1, show_progress=False)
    episodes, _ = read_parquet(output / "rows" / "flow-2-seed0.parquet")
    assert [e.seed for e in episodes] == [7, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episode": 3}, "unknown key 'episode'.*episodes"),
        ({"tasks": [{"env": "pusht_keypoints"}]}, "either 'env' or 'tasks'"),
        ({"reference": "Flow-3"}, "reference 'Flow-3'.*Flow-2"),
        ({"rows": [{"name": "EBT"}]}, "row 'EBT': 'evaluate' is missing"),
        ({"rows": [{"name": "A", "evaluate": [{"max_evaluations": [1, 2]}]}]}, "two settings are called 'A'"),
        ({"rows": [{"name": "A", "evaluate": [{"name": "{steps}"}]}]}, "uses 'steps'"),
        ({"rows": [{"name": "A", "learning_curve": "B", "evaluate": [{}]}]}, "'B' is none of its settings"),
        (
            {"rows": [{"name": "A", "checkpoint": "x", "policy": {}, "evaluate": [{}]}]},
            "either a 'checkpoint'",
        ),
    ],
)
def test_mistakes_are_named(config: dict, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_bench(write(tmp_path / "bench.yaml", config | change))


def test_a_mistake_in_the_last_row_shows_before_any_training(config: dict, tmp_path: Path) -> None:
    config["rows"][1]["policy"]["method_"] = "flow"
    with pytest.raises(UserError, match="method_"):
        bench(write(tmp_path / "bench.yaml", config), tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_the_shipped_bench_is_valid_and_matches_trunks() -> None:
    config = load_bench("bench_pusht")
    assert load_bench(SHIPPED) == config
    assert (config.episodes, config.seed) == (500, 100_000)
    recipes = {row.name: _recipe(config, row, seed=3) for row in config.rows}
    assert all(recipe is not None and recipe.seed == 3 for recipe in recipes.values())
    first, *others = recipes.values()
    assert first is not None
    for other in others:
        assert other is not None
        assert (other.steps, other.batch_size, other.dataset) == (
            first.steps,
            first.batch_size,
            first.dataset,
        )


@pytest.mark.parametrize("name", sorted(p.stem for p in ALL_BENCHES if bench_kind(p) is None))
def test_all_shipped_benches_of_policies_are_valid(name: str) -> None:
    for config in load_suite(name).benches:
        for row in config.rows:
            recipe = _recipe(config, row, seed=0)
            assert (recipe is None) == (row.checkpoint is not None)


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in SHIPPED.parent.glob("bench_*.yaml") if bench_kind(p) is None)
)
def test_a_report_names_every_row_that_was_trained_otherwise(name: str) -> None:
    for config in load_suite(name).benches:
        recipes = {row.name: recipe for row in config.rows if (recipe := _recipe(config, row, seed=0))}
        said = training_sentence(config, recipes)
        facts = {row: (r.steps, r.batch_size, r.dataset, r.corrections) for row, r in recipes.items()}
        if all(fact == next(iter(facts.values())) for fact in facts.values()):
            assert ("the same data, batch and steps" in said) == bool(facts)
            continue
        assert "the same data, batch and steps" not in said
        first = next(row for row in facts if f"as {row}" in said)
        other = [row for row, fact in facts.items() if fact != facts[first]]
        assert [row for row in facts if f"{row} (" in said] == other
        assert all(
            (row.name in said.partition("not trained here")[2]) for row in config.rows if row.checkpoint
        )


def test_the_sentence_on_training_says_what_differs(config: dict, tmp_path: Path) -> None:
    config["rows"][1]["train"] = {"steps": 1200, "dataset.held_out_fraction": 0.5}
    config["rows"].append({"name": "Old", "checkpoint": "shipped:pusht_keypoints_ebt", "evaluate": [{}]})
    read = load_bench(write(tmp_path / "bench.yaml", config))
    recipes = {row.name: recipe for row in read.rows if (recipe := _recipe(read, row, seed=0))}
    said = training_sentence(read, recipes)
    assert "as Flow" in said  # the reference's row
    assert "EBT (steps 4, dataset.held_out_fraction 0.25)" in said
    assert said.endswith("not trained here: Old")
    assert "Old" not in training_sentence(replace(read, rows=read.rows[:2]), recipes)


def test_pixels_are_benched_with_one_recipe_for_every_method() -> None:
    config = load_bench("bench_pixels")
    assert (config.env, config.episodes, config.seed) == ("pusht_pixels", 200, 100_000)
    settings = [setting.name for row in config.rows for setting in row.settings]
    assert settings == [
        *("EBT-1", "EBT-2", "EBT-4", "EBT-8"),
        *(f"EBT-{n}, no lowest level" for n in (1, 2, 4, 8)),
        *(f"EBT-{n}, no context tokens" for n in (1, 2, 4, 8)),
        *(f"EBT-{n}, dropout .1" for n in (1, 2, 4, 8)),
        *("Flow-10", "DDPM-100", "DDIM-10", "Two-pass regression (MIP)"),
    ]
    assert all(row.training_seeds == (0, 1) for row in config.rows)
    recipes = [recipe for row in config.rows if (recipe := _recipe(config, row, seed=1))]
    assert {(r.steps, r.batch_size, r.policy["vision"]) for r in recipes} == {(9000, 256, "small")}
    assert all(r.dataset == recipes[0].dataset for r in recipes)


@pytest.mark.parametrize(("name", "of_each_task", "tasks"), [("bench_mt10", 10, 10), ("bench_mt50", 20, 50)])
def test_all_policies_of_many_tasks_are_told_the_same_sentences(
    name: str, of_each_task: int, tasks: int
) -> None:
    config = load_bench(name)
    numbers = [seed % tasks for seed in range(config.seed, config.seed + config.episodes)]
    assert {numbers.count(number) for number in range(tasks)} == {of_each_task}
    ours, *others = [
        r for row in config.rows if (r := _recipe(config, row, seed=1)) and r.policy["type"] != "act"
    ]
    for recipe in others:
        shared = {key: recipe.policy[key] for key in ours.policy.keys() & recipe.policy.keys() - {"type"}}
        assert shared == {key: ours.policy[key] for key in shared} and shared["task_encoder"] == "static"
        assert recipe.steps in (ours.steps, 3 * ours.steps)
        assert (recipe.dataset, recipe.batch_size, recipe.optimizer, recipe.seed) == (
            *(ours.dataset, ours.batch_size, ours.optimizer),
            1,
        )
