"""A calibration holds for one way of acting: every option that changes what a decision reads."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro

from ebt_policy.cli.options import Overrides, key_values
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks import improvement
from ebt_policy.hardware.config_deploy import PolicyOptions
from ebt_policy.hardware.planners.make import make_planner
from ebt_policy.inference.runner import Runner, load_runner
from ebt_policy.monitoring.calibration import Calibration, calibrated, read_calibration
from ebt_policy.monitoring.signals import Statistic
from ebt_policy.monitoring.watched import ACTING, WatchedRunner, acting

OTHERWISE = {  # option: (type of policy, a value that is not its default)
    "n_action_steps": ("ebt", 4),
    "max_evaluations": ("ebt", 5),
    "min_evaluations": ("ebt", 1),
    "start": ("ebt", "noise"),
    "warm_start_share": ("ebt", 0.75),
    "last_noise": ("ebt", 0.25),
    "step_size": ("ebt", 0.5),
    "descends": ("ebt", "gradient"),
    "stop_settled": ("ebt", 0.03),
    "stop_energy": ("ebt", 1e-5),
    "unrolled_step_size": ("ebt", 0.5),
    "unrolled_momentum": ("ebt", 0.5),
    "unrolled_temperature": ("ebt", None),
    "num_inference_steps": ("matched_baseline", 3),
    "sampler": ("matched_baseline", "ddim"),
    "timestep_spacing": ("matched_baseline", "trailing"),
    "noise_scheduler_type": ("diffusion", "DDIM"),
}
every_option = pytest.mark.parametrize("name", ACTING)


def made(runner: Runner, **changes) -> Calibration:
    """What `calibrate` would write of this runner."""
    calibration = calibrated(
        np.linspace(0, 1, 20),
        alpha=0.1,
        statistic=Statistic(("overlap",), (0.0,), (1.0,)),
        horizon=40,
        checkpoint_sha256=runner.checkpoint_sha256,
        source="pusht_keypoints",
        acting=acting(runner),
        usual_energy=0.02,
    )
    return replace(calibration, **changes)


def both(checkpoint: Callable, name: str) -> tuple[Runner, Runner]:
    """The policy as it was saved, and acting otherwise in this option."""
    kind, value = OTHERWISE[name]
    return load_runner(checkpoint(kind)), load_runner(checkpoint(kind), overrides={name: value})


@every_option
def test_each_is_compared_and_those_of_an_older_file_are_the_checkpoint_s_own(
    checkpoint: Callable, name: str
):
    usual, other = both(checkpoint, name)
    older = made(usual, acting={k: v for k, v in acting(usual).items() if k != name})
    for calibration in (made(usual), older):
        WatchedRunner(usual, calibration)
        with pytest.raises(UserError, match=f"with {name} = .*; here it is .*, and scores differ"):
            WatchedRunner(other, calibration)
    WatchedRunner(other, made(other))
    with pytest.raises(UserError, match=f"with {name} = "):
        WatchedRunner(usual, made(other))


@every_option
def test_a_file_keeps_each_and_the_command_of_the_message_makes_it(
    checkpoint: Callable, tmp_path: Path, name: str
):
    usual, other = both(checkpoint, name)
    made(other).write(tmp_path / "made.json")
    WatchedRunner(other, read_calibration(tmp_path / "made.json"))
    with pytest.raises(UserError) as refused:
        WatchedRunner(other, made(usual))
    words = shlex.split(str(refused.value).partition("ebt-policy calibrate ")[2].rstrip("."))
    told = tyro.cli(_told, args=[word for word in words if word not in ("--policy", "POLICY", "...")])
    again = load_runner(checkpoint(OTHERWISE[name][0]), **told)
    assert acting(again) == acting(other)
    WatchedRunner(again, made(other))


def _told(max_evaluations: int | None = None, overrides: Overrides = ()) -> dict:
    return {"max_evaluations": max_evaluations, "overrides": key_values(overrides)}


@every_option
def test_an_improved_policy_is_calibrated_acting_as_the_old_one_did(
    checkpoint: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    _, other = both(checkpoint, name)
    made(other).write(tmp_path / "old.json")
    asked = []

    def calibrate(policy, output, *, max_evaluations, n_action_steps, overrides, **_):
        runner = load_runner(policy, max_evaluations, n_action_steps, overrides=overrides)
        asked.append(acting(runner))
        return made(runner, usual_energy=0.5)

    monkeypatch.setattr(improvement, "calibrate", calibrate)
    improvement.recalibrate(tmp_path / "old.json", checkpoint(OTHERWISE[name][0]), episodes=1)
    expected = acting(other)
    if (
        name == "stop_energy"
    ):  # an energy compares within one policy only: the new one has its own usual energy
        assert asked[0] == expected | {"stop_energy": None}
        expected |= {"stop_energy": 0.5}
    assert asked[-1] == expected


@pytest.mark.parametrize("kind", ["matched_baseline", "diffusion"])
def test_a_budget_is_the_same_as_in_an_older_file(checkpoint: Callable, kind: str):
    runner = load_runner(checkpoint(kind), 3)
    WatchedRunner(runner, made(runner, acting={"n_action_steps": 8, "max_evaluations": 3}))
    for other in (load_runner(checkpoint(kind)), load_runner(checkpoint(kind), 2)):
        with pytest.raises(UserError, match="max_evaluations = 3"):
            WatchedRunner(other, made(runner))


def test_stopping_at_the_usual_energy_takes_a_calibration_made_that_way(checkpoint: Callable, tmp_path: Path):
    policy, file = checkpoint("ebt"), tmp_path / "calibration.json"
    runner = load_runner(policy)
    made(runner, usual_energy=1e-5).write(file)
    options = PolicyOptions(path=str(policy), stop="energy", calibration=str(file))
    with pytest.raises(UserError, match="--set min_evaluations=1 .*--set stop_energy=1.0e-05"):
        make_planner(options, 10.0)
    how = {"min_evaluations": 1, "stop_energy": 1e-5}
    made(load_runner(policy, overrides=how), usual_energy=0.3).write(file)  # its own is another one
    planner = make_planner(options, 10.0)
    assert planner.watched.config.stop_energy == 1e-5
    assert json.loads(file.read_text())["acting"]["stop_energy"] == 1e-5
