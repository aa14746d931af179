"""A bench of takeovers: when the operator takes over, what of it is kept, how it shares its budget, and going on after a stop."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks import takeover_bench as bench_module
from ebt_policy.eval.benchmarks import takeover_operator, takeover_rounds
from ebt_policy.eval.benchmarks.takeover_bench import takeover_bench
from ebt_policy.eval.benchmarks.takeover_config import load_takeover_bench
from ebt_policy.eval.benchmarks.takeover_operator import (
    Intervention,
    ScriptedOperator,
    foresight,
    oracle,
    trigger,
)
from ebt_policy.eval.benchmarks.takeover_rounds import collect_round
from ebt_policy.eval.rollout.episodes import Episode, write_parquet
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.inference.runner import RunnerDecision
from ebt_policy.model.trace import Trace

USUAL = 100


@pytest.mark.parametrize("kind", ["random", "fixed", "start"])
def test_times_depend_on_the_seed_alone_and_lie_within_a_usual_episode(kind):
    wants = trigger(kind, USUAL)
    begins = [next(t for t in range(1000) if wants(seed, t, None)) for seed in range(300)]
    assert begins == [next(t for t in range(1000) if wants(seed, t, None)) for seed in range(300)]
    assert min(begins) >= 0 and max(begins) < USUAL
    if kind == "random":  # uniform
        assert np.histogram(begins, 4, (0, USUAL))[0].min() > 50


def test_the_alarm_is_that_of_the_newest_decision():
    readings = [SimpleNamespace(alarm=alarm) for alarm in (True, False)]
    wants = trigger("alarm", USUAL)
    assert not wants(0, 5, SimpleNamespace(readings=readings))
    assert wants(0, 5, SimpleNamespace(readings=readings[:1]))


class Still:
    """A policy that never moves, in robosuite."""

    n_obs_steps, n_action_steps = 1, 8

    def decide(self, observations, noise, previous=None) -> RunnerDecision:
        size = len(observations["observation.state"])
        trace = Trace(
            energy=np.zeros((size, 1)),
            residual_rms=np.zeros((size, 1)),
            step_size=np.zeros((size, 1)),
            evaluations=np.ones(size, int),
            stop_reason=np.zeros(size, np.int8),
            seconds=0.0,
        )
        return RunnerDecision(np.zeros((size, 8, 7)), np.zeros((size, 16, 7)), trace, None)


def alone(seed: int, coverages: list[float], success: bool = False, begin: int | None = None) -> Episode:
    """An episode of a policy that decides every 8 ticks."""
    ticks, top = len(coverages), max(coverages)
    decisions = -(-ticks // 8)
    plan = None if begin is None else {"begin": begin}
    episode = Episode(
        seed,
        "e",
        success,
        top,
        coverages[-1],
        ticks,
        None,
        8,
        decisions,
        1.0,
        1.0,
        0.0,
        0.0,
        [],
        disturbance=plan,
    )
    episode.coverages = coverages
    return episode


def test_the_oracle_takes_over_where_a_failing_policy_gets_no_further(monkeypatch):
    rising = [0.1] * 10 + [0.5] * 20 + [0.2] * 70  # the last tick of .5 is the 30th
    played = [
        alone(1, rising),
        alone(2, rising, success=True),
        alone(3, rising, begin=55),
        alone(4, [0.0] * 100),  # level to the end: before the last decision, at tick 96
    ]
    monkeypatch.setattr(takeover_operator, "rollout", lambda *_: played)
    wants = oracle(Still(), "e", range(1, 5))
    begins = {seed: next((t for t in range(0, 100, 8) if wants(seed, t, None)), None) for seed in range(1, 6)}
    assert begins == {1: 32, 2: None, 3: 56, 4: 96, 5: None}


class StillPusher(Still):
    """It never moves, in PushT."""

    def decide(self, observations, noise, previous=None) -> RunnerDecision:
        decision = super().decide(observations, noise, previous)
        here = observations["observation.state"][:, -1:, :2]
        return RunnerDecision(np.repeat(here, 8, 1), decision.chunk, decision.trace, None)


def test_the_oracle_plays_each_episode_before_it_is_helped(monkeypatch, tmp_path):
    monkeypatch.setattr(takeover_rounds, "GROUP", 2)
    found = collect_round(
        tmp_path, StillPusher, "pusht_keypoints", {"start": 50003}, foresight("oracle", USUAL), 300, 1
    )
    (fact,) = found.facts
    assert fact["solved"] and fact["seed"] == 50003
    assert fact["tick"] == 296  # nothing changes coverage, so its highest one lasts until the last decision


@pytest.fixture(scope="module")
def lifted() -> tuple[list[Intervention], list[Episode]]:
    """The operator takes over from a still policy in two episodes, at ticks 0 and 16, and may drive 100 ticks."""
    pytest.importorskip("robosuite")
    begins = {1: 0, 2: 12}
    operator = ScriptedOperator("robosuite_lift", lambda seed, tick, watch: tick >= begins[seed], 100)
    episodes = rollout(Still(), "robosuite_lift", [1, 2], operator=operator)
    return operator.interventions, episodes


def test_the_operator_drives_from_the_decision_to_success(lifted):
    interventions, episodes = lifted
    assert [(one.seed, one.tick) for one in interventions] == [(1, 0), (2, 16)]
    for one in interventions:
        assert one.solved and 10 < one.ticks < 100
        shapes = {name: values.shape for name, values in one.frames.items()}
        assert shapes == {
            "observation.state": (one.ticks, 9),
            "observation.environment_state": (one.ticks, 7),
            "action": (one.ticks, 7),
        }
    assert [(e.ticks, e.success) for e in episodes] == [(0, False), (16, False)]  # the policy's part


def test_it_records_what_it_saw_before_each_of_its_actions(lifted):
    interventions, _ = lifted
    env = environment("robosuite_lift").make(False)
    seen, _ = env.reset(seed=1)
    first = environment("robosuite_lift").to_policy(seen)
    for name, value in first.items():
        np.testing.assert_array_equal(interventions[0].frames[name][0], value)
    env.close()


def test_the_operator_solves_disturbed_pusht():
    spec = environment("pusht_keypoints+teleport")
    env = spec.make(False)
    seen, _ = env.reset(seed=50003)
    operator = ScriptedOperator("pusht_keypoints+teleport", trigger("start", USUAL), 300)
    operator.drive(spec, env, 50003, spec.to_policy(seen))
    (found,) = operator.interventions
    assert found.solved and found.frames["action"].shape == (found.ticks, 2)
    env.close()


@pytest.mark.slow
def test_the_time_limit_does_not_hold_for_the_operator():
    pytest.importorskip("robosuite")
    spec = environment("robosuite_lift")
    env = spec.make(False)
    env.reset(seed=3)
    for _ in range(spec.max_ticks - 1):
        env.step(np.zeros(7))
    operator = ScriptedOperator("robosuite_lift", trigger("start", USUAL), 100)
    operator.takes_over(3, spec.max_ticks - 1, None)
    operator.drive(spec, env, 3, spec.to_policy(env.unwrapped.get_obs()))
    assert operator.interventions[0].solved and operator.interventions[0].ticks > 1
    env.close()


def fake_rollout(acted: list[int], per_episode: int = 2) -> Any:
    """Every second episode has an intervention of 10 + seed % 7 ticks; those with a seed divisible by 3 are not solved."""

    def run(runner, env, seeds, *, operator):
        acted.extend(seeds)
        for seed in seeds:
            if seed % per_episode == 0:
                ticks = 10 + seed % 7
                frames = {
                    "observation.state": np.full((ticks, 2), seed, np.float32),
                    "action": np.zeros((ticks, 2), np.float32),
                }
                operator.interventions.append(Intervention(env, seed, 8, ticks, bool(seed % 3), frames))

    return run


@pytest.fixture
def acted(monkeypatch) -> list[int]:
    seeds: list[int] = []
    monkeypatch.setattr(takeover_rounds, "rollout", fake_rollout(seeds))
    return seeds


def collected(folder, seeds=None, **budget):
    starts = seeds or {"teleport": 100, "gripper": 1000, "start": 5000}
    return collect_round(
        folder, lambda: None, "robosuite_lift", starts, foresight("start", USUAL), 50, **budget
    )


def test_a_round_shares_its_interventions_and_keeps_what_was_solved(acted, tmp_path):
    found = collected(tmp_path / "round", interventions=10)
    kinds = [fact["env"].partition("+")[2] for fact in found.facts]
    assert [kinds.count(kind) for kind in ("teleport", "gripper", "start")] == [4, 3, 3]
    assert found.interventions == 10 and found.solved == sum(f["seed"] % 3 > 0 for f in found.facts)
    data = LeRobotDataset("local/corrections", root=found.dataset)
    assert data.num_episodes == found.solved
    assert data.num_frames == sum(f["ticks"] for f in found.facts if f["solved"])
    assert found.next_seeds == {"teleport": 107, "gripper": 1005, "start": 5005}


def test_a_round_with_a_budget_of_ticks_ends_when_it_is_spent(acted, tmp_path):
    found = collected(tmp_path / "round", ticks=120)
    assert 120 <= found.ticks < 120 + 3 * 16


def test_a_complete_round_is_read_and_the_next_one_takes_other_seeds(acted, tmp_path):
    first = collected(tmp_path / "one", interventions=9)
    before = len(acted)
    assert collected(tmp_path / "one", interventions=9) == first and len(acted) == before
    second = collected(tmp_path / "two", dict(first.next_seeds), interventions=9)
    seeds = [{(f["env"], f["seed"]) for f in one.facts} for one in (first, second)]
    assert not seeds[0] & seeds[1]


def test_a_trigger_that_hardly_ever_fires_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(takeover_rounds, "rollout", fake_rollout([], per_episode=10**9))
    with pytest.raises(UserError, match="0 interventions in 400 episodes"):
        collected(tmp_path / "round", interventions=3)


CONFIG = {
    "kind": "takeover",
    "env": "robosuite_lift",
    "policy": "somewhere",
    "disturbances": ["teleport", "start"],
    "arms": [
        {"name": "at random", "trigger": "random"},
        {"name": "whole", "trigger": "start", "ticks_of": "at random"},
    ],
    "rounds": 2,
    "interventions": 4,
    "episodes": 6,
}


def config_file(tmp_path, **changes):
    path = tmp_path / "bench_mine.yaml"
    path.write_text(yaml.safe_dump(CONFIG | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": []}, "'arms' is missing"),
        ({"disturbances": []}, "'disturbances' is missing"),
        ({"shown": -1}, "shown is -1; expected 0 or more"),
        ({"rouns": 2}, "unknown key 'rouns'. Did you mean 'rounds'"),
        ({"interventions": 1}, "expected at least one for each of the 2 disturbances"),
        ({"arms": [{"name": "a", "trigger": "start", "ticks_of": "b"}]}, "ticks_of 'b' is no arm before it"),
        ({"arms": [CONFIG["arms"][0]] * 2}, "two arms are called 'at random'"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_takeover_bench(config_file(tmp_path, **changes))


def test_the_shipped_file_is_right():
    from ebt_policy.cli.options import config_file as shipped

    config = load_takeover_bench(shipped("bench_takeover", "bench file", prefix="bench_"))
    for arm in config.arms:
        foresight(arm.trigger, USUAL)


@pytest.fixture
def learning(monkeypatch, acted, tmp_path) -> list[str]:
    """Everything that takes long is replaced: policies are folders with a file, and solve as many episodes as their round says."""
    done: list[str] = []

    def policy(folder, skill: int):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_text(f"{folder} {skill}")
        return folder

    def improve(parent, datasets, run, **options):
        done.append(f"improve {run.parent.parent.name} {run.parent.name}")
        skill = int((bench_module.find_checkpoint(parent) / "model.safetensors").read_text().split()[-1])
        return policy(run, skill + 2)

    def evaluate(policy, env, episodes, seed, *, parquet_path, **options):
        done.append(f"evaluate {env}")
        skill = int((bench_module.find_checkpoint(policy) / "model.safetensors").read_text().split()[-1])
        rows = [
            Episode(seed + i, env, i < skill, 1.0, 1.0, 9, 9, 8, 0, 1.0, 1.0, 0.0, 0.0, [])
            for i in range(episodes)
        ]
        sha = bench_module.sha256(bench_module.find_checkpoint(policy) / "model.safetensors")
        facts = {"env": env, "seed": seed, "episodes": episodes, "checkpoint_sha256": sha}
        write_parquet(parquet_path, rows, facts)
        return SimpleNamespace(rows=rows)

    start = policy(tmp_path / "policy", 1)
    monkeypatch.setattr(
        bench_module, "find_checkpoint", lambda spec: start if spec == "somewhere" else Path(spec)
    )
    monkeypatch.setattr(bench_module, "sha256", lambda path: path.read_text())
    monkeypatch.setattr(bench_module, "improve", improve)
    monkeypatch.setattr(bench_module, "evaluate", evaluate)
    monkeypatch.setattr(bench_module, "watched_runner", lambda *_, **__: None)

    def write_round_page(path, title, *_):
        done.append(f"page {title}")
        path.write_text(title)

    monkeypatch.setattr(bench_module, "write_round_page", write_round_page)
    return done


def test_the_report_has_each_round_of_each_arm_with_its_cost(learning, tmp_path):
    page = takeover_bench(config_file(tmp_path), tmp_path / "out")
    text = (page.parent / "report.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    table = {row[0].strip("| "): row[1:] for row in rows[2:7]}
    assert list(table) == [
        "no takeover",
        "at random, round 1",
        "at random, round 2",
        "whole, round 1",
        "whole, round 2",
    ]
    assert table["no takeover"][:2] == ["0", "0"]
    assert [table[f"at random, round {n}"][0] for n in (1, 2)] == ["4", "8"]
    spent = [int(table[name][1].replace(",", "")) for name in ("at random, round 2", "whole, round 2")]
    assert spent[0] <= spent[1] < spent[0] + 4 * 16
    between = next(line for line in text.splitlines() if line.startswith("| at random minus whole, round 1 "))
    assert between.count("+0.0 points") == 3  # undisturbed and two disturbances, equally skilled
    pages = ["at random, round 1", "at random, round 2", "whole, round 1", "whole, round 2"]
    assert [step for step in learning if step.startswith("page")] == [
        f"page robosuite_lift: {page}" for page in pages
    ]
    assert "16.7%" in table["no takeover"][2] and "83.3%" in table["whole, round 2"][2]


def test_an_interrupted_bench_goes_on_where_it_stopped(learning, tmp_path, monkeypatch):
    whole = takeover_bench(config_file(tmp_path), tmp_path / "whole").parent
    steps, original = list(learning), bench_module.evaluate
    learning.clear()
    calls = iter(range(1000))

    def killed(*arguments, **options):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(bench_module, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        takeover_bench(config_file(tmp_path), tmp_path / "parts")
    parts = takeover_bench(config_file(tmp_path), tmp_path / "parts").parent
    evaluations = [step for step in learning if step.startswith("evaluate")]
    assert evaluations == [step for step in steps if step.startswith("evaluate")]
    results = [
        [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("|")]
        for folder in (whole, parts)
    ]
    assert results[0] == results[1]
