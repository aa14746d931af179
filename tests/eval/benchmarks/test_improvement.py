"""Whether an improved policy is better, in words, and its calibration after the pattern of the old one's."""

import re
from types import SimpleNamespace

import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks import improvement as module
from ebt_policy.eval.benchmarks.improvement import improvement, recalibrate
from ebt_policy.monitoring.calibration import calibrated
from ebt_policy.monitoring.signals import Statistic


@pytest.mark.parametrize(
    ("solved", "said"),
    [
        (
            {"old": range(20), "new": range(60)},
            "20.0% .* before, 60.0% .* after: \\+40.0 points .* is better",
        ),
        ({"old": range(60), "new": range(20)}, "-40.0 points .* is worse: keep the old one"),
        ({"old": range(50), "new": range(1, 52)}, "\\+1.0 points .* do not tell them apart"),
    ],
)
def test_it_says_which_policy_is_better(solved, said, monkeypatch):
    seeds = []

    def evaluate(policy, env, episodes, seed, **options):
        seeds.append(range(seed, seed + episodes))
        return SimpleNamespace(rows=[SimpleNamespace(success=i in solved[policy]) for i in range(episodes)])

    monkeypatch.setattr(module, "evaluate", evaluate)
    text = str(improvement("old", "new", "pusht_keypoints"))
    assert re.search(said, text), text
    assert seeds[0] == seeds[1]  # paired
    for used in (100_000, 300_000):  # by `eval` and `calibrate`
        assert not any(used <= seed < used + 1000 for seed in seeds[0])


def test_a_policy_is_not_better_than_itself(checkpoint):
    policy = checkpoint("ebt")
    found = improvement(policy, policy, "pusht_keypoints", episodes=2, processes=1)
    assert found.difference.estimate == 0 and found.difference.low < 0 < found.difference.high


@pytest.mark.parametrize("source", ["pusht_keypoints+push", "me/my_arm_calibration"])
def test_the_new_policy_is_calibrated_as_the_old_one_was(source, tmp_path, monkeypatch):
    statistic = Statistic(("old_plan",), (0.0,), (1.0,))
    old = calibrated(
        [float(i) for i in range(30)],
        statistic=statistic,
        horizon=9,
        alpha=0.2,
        checkpoint_sha256="old",
        source=source,
        acting={"max_evaluations": 4, "n_action_steps": 3, "start": "noise"},
        root=str(tmp_path / "recorded"),
    )
    old.write(tmp_path / "old.json")
    asked = {}

    def calibrate(policy, output, **options):
        asked.update(options, policy=policy, output=output)
        return old

    monkeypatch.setattr(module, "calibrate", calibrate)
    recalibrate(tmp_path / "old.json", tmp_path / "new", episodes=40)
    simulated = source.startswith("pusht")
    assert asked["env"] == (source if simulated else None)
    assert asked["dataset"] == (None if simulated else source)
    assert (asked["alpha"], asked["signals"], asked["max_evaluations"]) == (0.2, ("old_plan",), 4)
    assert (asked["n_action_steps"], asked["overrides"]) == (3, {"start": "noise"})
    assert asked["root"] == tmp_path / "recorded"
    assert asked["output"] == tmp_path / "new" / "calibration.json"


def test_a_calibration_whose_dataset_is_gone_is_told_before_training(tmp_path):
    statistic = Statistic(("old_plan",), (0.0,), (1.0,))
    facts = {"horizon": 9, "alpha": 0.2, "checkpoint_sha256": "old", "source": "local/gone"}
    made = calibrated(
        [float(i) for i in range(30)], statistic=statistic, root=str(tmp_path / "gone"), **facts
    )
    made.write(tmp_path / "old.json")
    with pytest.raises(UserError, match="gone"):
        module.check_source(tmp_path / "old.json")
