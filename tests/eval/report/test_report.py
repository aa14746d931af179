import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_overview import difference_table, success_table
from ebt_policy.eval.benchmarks.bench_tasks import by_task_table, paired_tasks_table
from ebt_policy.eval.report.figures import Point, curves
from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.report.report import Result, Table, compare, comparison_table, verdict, verdicts
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.evaluate import by_task
from ebt_policy.eval.statistics.intervals import Interval, wilson
from ebt_policy.model.trace import StopReason, Trace


def trace(energies: Sequence[float]) -> Trace:
    values = np.array([energies], np.float32)
    made = Trace.without_steps(1, evaluations=len(energies))
    made.energy = values
    made.stop_reason = np.array([StopReason.BUDGET], np.int8)
    return made


def episode(seed: int, success: bool, energies: Sequence[Sequence[float]] = ((),)) -> Episode:
    coverage = 0.97 if success else 0.6
    return Episode(
        seed=seed,
        env="pusht_keypoints",
        success=success,
        max_coverage=coverage,
        final_coverage=coverage,
        ticks=8 * len(energies),
        ticks_to_success=5 if success else None,
        n_action_steps=8,
        decisions=len(energies),
        evaluations_per_decision=2.0,
        inner_steps=2.0,
        final_energy_mean=float("nan"),
        final_energy_max=float("nan"),
        traces=[trace(e) for e in energies],
    )


def result(name: str, *outcomes: Sequence[bool], first_seed: int = 0) -> Result:
    by_training_seed = {
        k: [episode(first_seed + i, bool(s)) for i, s in enumerate(row)] for k, row in enumerate(outcomes)
    }
    return Result(name, name, by_training_seed, (1.0, 2.0))


RNG = np.random.default_rng(0)
GOOD, POOR = RNG.random(200) < 0.9, RNG.random(200) < 0.5


def test_success_is_the_rate_over_all_training_seeds_and_its_interval_holds_each_of_two() -> None:
    assert (result("a", GOOD).success.low, result("a", GOOD).success.high) == wilson(int(GOOD.sum()), 200)
    interval = result("a", GOOD, POOR).success
    assert interval.estimate == np.concatenate([GOOD, POOR]).mean()
    assert interval.low < POOR.mean() + 0.01 and interval.high > GOOD.mean() - 0.01


@pytest.mark.parametrize("training_seeds", [1, 3])
def test_a_paired_comparison_is_antisymmetric_and_finds_a_clear_difference(training_seeds: int) -> None:
    good, poor = result("good", *[GOOD] * training_seeds), result("poor", *[POOR] * training_seeds)
    ours, theirs = compare(good, poor), compare(poor, good)
    assert verdict(ours.success) == "higher" and verdict(theirs.success) == "lower"
    assert ours.success.estimate == pytest.approx(-theirs.success.estimate)
    assert ours.success.low == pytest.approx(-theirs.success.high, abs=0.01)
    assert len(ours.tests) == training_seeds and all(t.p_value < 1e-6 for t in ours.tests)
    assert verdict(compare(good, good).success) == "not told apart"


@pytest.mark.parametrize("training_seeds", [1, 2])
def test_one_episode_is_compared_without_an_interval(training_seeds: int) -> None:
    good, poor = result("good", *[[True]] * training_seeds), result("poor", *[[False]] * training_seeds)
    compared = compare(good, poor)
    assert verdict(compared.success) == verdict(compared.max_coverage) == "not told apart"
    said = " ".join(verdicts([good, poor], "poor"))
    assert "Maximum coverage not told apart: good (+0.370 [one episode: no interval])." in said
    assert "inf" not in comparison_table([good, poor], "poor").markdown()


def test_pairs_are_made_by_seed_and_not_by_order() -> None:
    first = result("a", GOOD)
    backwards = Result("b", "b", {0: list(reversed(first.episodes[0]))})
    assert compare(first, backwards).tests[0].p_value == 1.0
    assert compare(first, backwards).success.estimate == 0


def test_other_seeds_cannot_be_paired() -> None:
    with pytest.raises(UserError, match="same environment seeds"):
        compare(result("a", GOOD), result("b", GOOD, first_seed=1))


def test_it_is_said_where_only_the_shared_trainings_are_compared() -> None:
    base, same, fewer = result("base", GOOD, POOR), result("same", POOR, GOOD), result("fewer", POOR)
    note = "over the training seeds that both have"
    assert note not in comparison_table([base, same], "x", "base").markdown()
    assert not any(note in line for line in verdicts([base, same], "base"))
    assert note in comparison_table([base, same, fewer], "x", "base").markdown()
    said = " ".join(verdicts([base, same, fewer], "base"))
    assert said.count(note) == 2  # success and coverage, of one row
    for name, those in (("task", [base, same]), ("other", [base, fewer])):
        assert (note in difference_table({name: those}, "base").markdown()) == (name == "other")


def test_an_overview_says_which_intervals_its_success_has() -> None:
    one, several = (
        success_table({"env": [result("a", *rows)]}).markdown() for rows in ([GOOD], [GOOD, POOR])
    )
    resampled = "Intervals of several training seeds resample these"
    assert "Wilson's for one training" in one and resampled not in one
    assert "Wilson's for one training" in several and resampled in several
    assert resampled in comparison_table([result("a", GOOD, POOR)], "x").markdown()


def test_everybody_is_judged_against_the_reference_and_losses_come_as_losses() -> None:
    results = [result("reference", GOOD), result("equal", GOOD), result("poor", POOR)]
    said = verdicts(results, "reference")
    assert [line.split(" (")[0] for line in said] == [
        "Success lower: poor",
        "Success not told apart: equal",
        "Maximum coverage lower: poor",
        "Maximum coverage not told apart: equal",
    ]
    assert verdicts(results, "poor")[0].startswith("Success higher: reference (+")


def test_terminal_markdown_and_page_show_the_same_figures(tmp_path: Path) -> None:
    table = comparison_table(
        [result("EBT-2", GOOD), result("DDPM-100", POOR)], "the goal is met", reference="DDPM-100"
    )
    console = Console(width=300, record=True, quiet=True)
    terminal = "\n".join("".join(s.text for s in line) for line in console.render_lines(table.rich()))
    write_html(tmp_path / "page.html", "demo.html.j2", **page(table))
    html = (tmp_path / "page.html").read_text()
    assert re.search(r"\d+\.\d% \[\d", table.rows[0][1])
    for row in table.rows:
        for cell in row:
            assert cell in terminal and cell in table.markdown() and cell.replace("<", "&lt;") in html


def test_on_a_phone_each_cell_names_its_column(tmp_path: Path) -> None:
    table = Table(("Policy", "Success <95 %>", "n"), (("EBT", "79.4 %", "500"),))
    write_html(tmp_path / "page.html", "demo.html.j2", **page(table))
    html = (tmp_path / "page.html").read_text()
    assert '<td data-column="Success &lt;95 %&gt;">79.4 %</td>' in html
    narrow = html[html.index("@media (max-width: 40rem)") :]
    assert "content: attr(data-column)" in narrow and ".scroll thead { display: none }" in narrow


def test_at_80_columns_every_word_and_figure_is_whole() -> None:
    names = ["EBT, 2 evaluations", "Diffusion, DDPM-100", "Diffusion, DDIM-10"]
    table = comparison_table([result(name, GOOD) for name in names], "the goal is met")
    console = Console(width=80, record=True, quiet=True)
    lines = console.render_lines(table.rich(console.width))
    shown = "\n".join("".join(s.text for s in line) for line in lines)
    assert "…" not in shown
    words = [word for row in table.rows for cell in row for word in cell.split()]
    assert [word for word in words if word not in shown] == []


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    table = Table(("Policy", "x"), (("<script>alert(1)</script> | [bold]", "1"),))
    write_html(tmp_path / "page.html", "demo.html.j2", **page(table))
    assert "<script>alert" not in (tmp_path / "page.html").read_text()
    assert "\\| [bold]" in table.markdown()


def page(table: Table) -> dict:
    return {
        "title": "t", "claim": "c", "table": table, "rows": [], "seed_rule": "r", "has_energy": True,
        "geometry": None, "details": {},
    }  # fmt: skip


def test_curves_join_points_in_order_and_carry_their_intervals() -> None:
    points = [Point(8, Interval(0.7, 0.6, 0.8), "b"), Point(1, Interval(0.5, 0.4, 0.65), "a")]
    (line,) = curves({"EBT": points}, "evaluations").data
    assert list(line.x) == [1, 8] and list(line.text) == ["a", "b"]
    np.testing.assert_allclose(line.error_y.array, [0.15, 0.1])
    np.testing.assert_allclose(line.error_y.arrayminus, [0.1, 0.1])


def test_the_episodes_of_a_task_are_those_of_its_seeds_over_all_trainings() -> None:
    # Seeds 10 to 15, two tasks in turn: even seeds are the first task's.
    rows = [result("A", [1, 0, 1, 0, 1, 0], [1, 1, 0, 0, 1, 0], first_seed=10)]
    table = by_task_table(rows, ("open", "close"))
    assert table.columns == ("Task", "A")
    (open_, opened), (close, closed) = table.rows
    assert (open_, close) == ("open", "close")
    assert opened.startswith("83%")
    assert closed.startswith("17%")
    low, high = wilson(1, 6)
    assert closed.endswith(f"[{100 * low:.0f}, {100 * high:.0f}]")
    found = by_task(rows[0].episodes[0], ("open", "close"))
    assert [(one.task, one.success_rate, one.episodes) for one in found] == [
        ("open", 1.0, 3),
        ("close", 0.0, 3),
    ]
    assert by_task(rows[0].episodes[0], ("open",)) == []


def test_differences_paired_by_task_vary_between_tasks_and_not_between_their_episodes() -> None:
    # Two tasks of three episodes; B solves one more of the first, as many of the second in other episodes.
    base = result("A", [1, 0, 0, 1, 0, 0])
    even = result("Even", [1, 1, 1, 0, 0, 1])  # one more of each: which of the episodes does not matter
    first_only = result("First", [1, 0, 1, 0, 0, 1])
    same, apart = paired_tasks_table([base, even, first_only], "A", ("open", "close")).rows
    assert same == ("Even", "+33.3 points [+33.3, +33.3]", "2", "0", "0")
    assert apart == ("First", "+16.7 points [+0.0, +33.3]", "1", "0", "1")
