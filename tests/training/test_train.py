"""Training: exact resume, held-out data, spikes, and what a run leaves behind."""

import dataclasses
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from equal_runs import assert_equal_runs, interrupt_at, tensors

from ebt_policy.errors import UserError
from ebt_policy.inference.runner import load_runner
from ebt_policy.model import vision_frozen
from ebt_policy.model.noise import Noise
from ebt_policy.training import data_setup, run_log
from ebt_policy.training.checkpoint import last_checkpoint
from ebt_policy.training.loop import Loop, uses_bf16
from ebt_policy.training.recipe import TrainRecipe, load_recipe
from ebt_policy.training.run_log import read_metrics
from ebt_policy.training.train import train


@pytest.mark.parametrize("policy", ["ebt", "diffusion", "act"])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(policy, tiny_recipe, tmp_path, monkeypatch):
    recipe = tiny_recipe(policy)
    whole = train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=7)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "parts")
    assert last_checkpoint(tmp_path / "parts").name == "000007"
    torch.manual_seed(99)  # whatever happens in between
    parts = train(recipe, tmp_path / "parts", resume=True)
    assert_equal_runs(whole, parts)
    assert [row["step"] for row in read_metrics(parts)] == [4, 8, 12]
    assert json.loads((parts / "run.json").read_text())["resumed"][0]["from_step"] == 7


def test_looking_at_the_held_out_loss_does_not_change_the_training(tiny_recipe, tmp_path):
    often = train(tiny_recipe(eval_every=1), tmp_path / "often")
    seldom = train(tiny_recipe(eval_every=12), tmp_path / "seldom")
    assert_equal_runs(often, seldom)


def test_seed_changes_the_run_but_not_the_held_out_episodes(tiny_recipe, tmp_path):
    runs = [train(tiny_recipe(seed=seed, steps=2), tmp_path / str(seed)) for seed in (0, 1)]
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    assert records[0]["episodes"] == records[1]["episodes"] == 3
    assert records[0]["samples"] == records[1]["samples"]
    a, b = tensors(runs[0]), tensors(runs[1])
    statistics = [name for name in a if "processor" in name]
    assert statistics and all(torch.equal(a[name], b[name]) for name in statistics)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_training_learns_and_records_itself(tiny_recipe, tmp_path):
    recipe = tiny_recipe(steps=150, log_every=10, eval_every=50, checkpoint_every=100, precision="bf16")
    run = train(recipe, tmp_path / "run")
    rows = read_metrics(run)
    assert rows[-1]["step"] == 150 and rows[-1]["samples"] == 150 * 32
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    held_out = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    assert len(held_out) == 3 and held_out[-1] < held_out[0]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert {"lr", "grad_norm", "skipped", "mse"} <= rows[-1].keys()
    record = json.loads((run / "run.json").read_text())
    assert {"torch", "lerobot", "python"} <= record["versions"].keys() and record["seed"] == 0
    assert yaml.safe_load((run / "recipe.yaml").read_text())["policy"]["type"] == "ebt"
    assert list((run / "log").glob("events.out.tfevents.*"))


def test_symmetry_doubles_the_samples(tiny_recipe, tmp_path):
    plain = train(tiny_recipe(steps=1), tmp_path / "plain")
    mirrored = train(tiny_recipe(steps=1, dataset={"symmetry": "pusht"}), tmp_path / "mirrored")
    one, two = (json.loads((run / "run.json").read_text())["samples"] for run in (plain, mirrored))
    assert two == 2 * one


def test_spike_is_left_out_and_counted(tiny_recipe, tmp_path, monkeypatch):
    original = Loop._batch

    def poisoned(self: Loop, windows, indices):
        batch = original(self, windows, indices)
        if windows is self.windows and self.trainer.step == 5:
            batch["action"] = batch["action"] * float("nan")
        return batch

    monkeypatch.setattr(Loop, "_batch", poisoned)
    run = train(tiny_recipe(), tmp_path / "run")
    assert [row["skipped"] for row in read_metrics(run)] == [0, 1, 1]
    assert all(value.isfinite().all() for value in tensors(run).values())


def test_a_compiler_that_fails_costs_a_warning_only(tiny_recipe, tmp_path, monkeypatch):
    def compile_nothing(_module, **_options):
        def fail(_batch):
            raise RuntimeError("no working C++ compiler found")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.warns(UserWarning, match="without compilation.*no working C"):
        compiled = train(tiny_recipe(compile=True), tmp_path / "compiled")
    monkeypatch.undo()
    assert_equal_runs(compiled, train(tiny_recipe(), tmp_path / "eager"))


def test_unrolled_steps_train_uncompiled_where_the_recipe_asks_for_compilation(tiny_recipe, tmp_path):
    compiled, eager = tiny_recipe(compile=True, steps=2), tiny_recipe(steps=2)
    for recipe in (compiled, eager):
        recipe.policy.update({"objective": "unrolled", "unrolled_steps": 2, "unrolled_extra_steps": 1})
    assert_equal_runs(train(compiled, tmp_path / "compiled"), train(eager, tmp_path / "eager"))


def test_policy_update_hook_is_called_once_for_each_step(tiny_recipe, tmp_path, monkeypatch):
    from ebt_policy.modeling_ebt import EBTPolicy

    calls = []
    monkeypatch.setattr(EBTPolicy, "update", lambda self: calls.append(self), raising=False)
    train(tiny_recipe(), tmp_path / "run")
    assert len(calls) == 12 and not calls[0].config.push_to_hub


def test_run_folder_is_protected(tiny_recipe, tmp_path):
    run = train(tiny_recipe(), tmp_path / "run")
    before = tensors(run)
    with pytest.raises(UserError, match="exists"):
        train(tiny_recipe(), run)
    with pytest.raises(UserError, match="another recipe: batch_size was 32, now 8"):
        train(tiny_recipe(batch_size=8), run, resume=True)
    with pytest.raises(UserError, match="no run to resume"):
        train(tiny_recipe(), tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    assert train(tiny_recipe(log_every=1), run, resume=True) == run, "a finished run is left as it is"
    assert all(torch.equal(value, before[name]) for name, value in tensors(run).items())


def test_a_resumed_run_of_someone_else_runs_no_program(tiny_recipe, tmp_path):
    run = train(tiny_recipe(steps=4, checkpoint_every=2), tmp_path / "run")
    file = last_checkpoint(run) / "pretrained_model" / "policy_preprocessor.json"
    values = json.loads(file.read_text())
    values["steps"].append(
        {"class": "subprocess.Popen", "config": {"args": ["touch", str(tmp_path / "ran")]}}
    )
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"policy_preprocessor\.json could run any program"):
        train(tiny_recipe(steps=6, checkpoint_every=2), run, resume=True)
    time.sleep(0.2)
    assert not (tmp_path / "ran").exists()


def test_mistakes_in_the_dataset_are_named(tiny_recipe, tmp_path):
    with pytest.raises(
        UserError, match="no observation 'observation.stat'. Did you mean 'observation.state'"
    ):
        train(tiny_recipe(dataset={"observations": ["observation.stat"]}), tmp_path / "a")
    with pytest.raises(UserError, match=r"dataset\.episodes: \[1\] named more than once"):
        train(tiny_recipe(dataset={"episodes": [0, 1, 1]}), tmp_path / "e")
    with pytest.raises(UserError, match=r"--set dataset\.held_out_fraction=0"):
        train(tiny_recipe(dataset={"episodes": [2]}), tmp_path / "f")
    with pytest.raises(UserError, match="nowhere"):
        train(tiny_recipe(dataset={"root": str(tmp_path / "nowhere")}), tmp_path / "b")
    with pytest.raises(UserError, match="A symmetry is written"):
        train(tiny_recipe(dataset={"symmetry": {"pixel": "vertical"}}), tmp_path / "c")
    with pytest.raises(UserError, match="Unknown goal_alignment 'pushd'"):
        train(tiny_recipe(dataset={"goal_alignment": "pushd"}), tmp_path / "d")
    assert not any(tmp_path.iterdir()), "a run that could not start leaves nothing behind"


def test_policy_can_be_given_a_part_of_the_observations(tiny_recipe, tmp_path):
    recipe = tiny_recipe(steps=1, dataset={"observations": ["observation.environment_state"]})
    run = train(recipe, tmp_path / "run")
    config = json.loads((last_checkpoint(run) / "pretrained_model" / "config.json").read_text())
    assert list(config["input_features"]) == ["observation.environment_state"]


@pytest.fixture(scope="module")
def arm(tmp_path_factory) -> Path:
    """Root of tests/arm: three episodes of 10 frames, a 48 x 64 camera as video, two joints."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = tmp_path_factory.mktemp("arm") / "dataset"
    joints = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    camera = {"dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    features = {"observation.images.top": camera, "observation.state": joints, "action": joints}
    dataset = LeRobotDataset.create("tests/arm", fps=10, root=root, features=features)
    rng = np.random.default_rng(0)
    for _ in range(3):
        for state in rng.normal(size=(10, 2)).astype(np.float32).cumsum(0):
            picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            dataset.add_frame(
                {
                    "observation.images.top": picture,
                    "observation.state": state,
                    "action": state + 1,
                    "task": "go",
                }
            )
        dataset.save_episode()
    dataset.finalize()
    return root


def my_robot(root: Path, repo_id: str = "tests/arm", **policy) -> TrainRecipe:
    """The shipped recipe for one's own arm, made small."""
    sizes = {"width": 16, "layers": 1, "attention_heads": 2, "vision": "resnet18"} | policy
    return load_recipe(
        "my_robot",
        {"dataset.repo_id": repo_id, "dataset.root": str(root), "dataset.held_out_fraction": 0.4}
        | {f"policy.{name}": value for name, value in sizes.items()}
        | {"steps": 1, "batch_size": 2, "device": "cpu", "threads": 1, "precision": "fp32"},
    )


def test_my_robot_trains_on_small_pictures_and_acts_at_the_cameras_own_size(arm, tmp_path, monkeypatch):
    seen = set()
    original = Loop._batch

    def watched(self: Loop, windows, indices):
        batch = original(self, windows, indices)
        seen.add(tuple(batch["observation.images.top"].shape[-2:]))
        return batch

    monkeypatch.setattr(Loop, "_batch", watched)
    run = train(my_robot(arm, resize_shape=[24, 32], crop_shape=[20, 28]), tmp_path / "run")
    assert seen == {(24, 32)}
    runner = load_runner(run)
    assert runner.config.input_features["observation.images.top"].shape == (3, 48, 64)
    observed = {
        "observation.images.top": np.zeros((1, 1, 3, 48, 64), np.float32),
        "observation.state": np.zeros((1, 1, 2), np.float32),
    }
    assert runner.decide(observed, Noise.from_seeds([0])).actions.shape == (1, 16, 2)


def test_my_robot_says_which_camera_encoder_it_chose(arm, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EBT_POLICY_CACHE", str(tmp_path / "cache"))
    weights = torchvision.models.mobilenet_v2().state_dict()
    monkeypatch.setattr(vision_frozen, "pretrained_weights", lambda name: weights)
    sizes = {"resize_shape": [24, 32], "crop_shape": [20, 28]}
    run = train(my_robot(arm, vision="auto", **sizes), tmp_path / "run")
    assert "vision=frozen, as this trains on a CPU" in capsys.readouterr().out
    assert load_recipe(run / "recipe.yaml").policy["vision"] == "frozen"
    train(dataclasses.replace(my_robot(arm, vision="auto", **sizes), steps=2), run, resume=True)
    train(my_robot(arm, **sizes), tmp_path / "told")
    assert "trains on a CPU" not in capsys.readouterr().out


def test_a_training_of_hours_is_told_so_with_what_would_be_faster(tiny_recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_log, "PLAIN_LINE_SECONDS", -1.0)
    train(tiny_recipe(steps=40), tmp_path / "short")
    told = capsys.readouterr().out
    assert told.count("minutes left at") == 1 and "Faster" not in told
    monkeypatch.setattr(run_log, "LONG_HOURS", 0.0)
    train(tiny_recipe(steps=40), tmp_path / "long")
    assert "Faster: a GPU; compile=true; fewer steps." in capsys.readouterr().out
    assert run_log.forecast(2.5, 100.0, "x") == "About 2.5 hours left at 100 samples/s. Faster: x."


def test_my_robot_refuses_cameras_smaller_than_its_pictures_before_decoding(arm, tmp_path, monkeypatch):
    monkeypatch.setattr(data_setup, "Windows", None)
    with pytest.raises(
        UserError, match=r"observation\.images\.top.*48 x 64.*enlarging.*resize_shape \(48, 64\)"
    ):
        train(my_robot(arm), tmp_path / "run")


def test_my_robot_trains_without_cameras(tiny_dataset, tmp_path):
    repo_id, root = tiny_dataset
    assert train(my_robot(root, repo_id), tmp_path / "run").is_dir()


def test_errors_of_the_doctor_stop_the_training(tiny_recipe, tmp_path, monkeypatch):
    from ebt_policy.data.doctor import Examination, Finding

    found = Finding("error", "action", 2, 3, "The value is NaN.", "Leave the episode out.")

    def examined(repo_id, root, *, episodes, **_):
        return Examination(repo_id, root, None, 10.0, findings=[found] if found.episode in episodes else [])

    monkeypatch.setattr(data_setup, "examine", examined)
    with pytest.raises(UserError, match=r"action.*The value is NaN\. Leave the episode out\."):
        train(tiny_recipe(), tmp_path / "stopped")
    without = tiny_recipe(steps=1, dataset={"episodes": [0, 1, 3]})
    assert train(without, tmp_path / "without").is_dir(), (
        "a fault in an episode that is not used does not matter"
    )


def test_missing_accelerator_is_an_error(tiny_recipe, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="Device 'cuda' was asked for"):
        train(tiny_recipe(device="cuda"), tmp_path / "run")


def test_metrics_cut_short_by_a_crash_are_read_up_to_the_last_whole_row(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("precision", "device", "cameras", "instructions", "bf16"),
    [
        ("auto", "cpu", True, False, False),  # convolutions in bf16 are many times slower there
        ("auto", "cpu", True, True, True),
        ("auto", "cpu", False, False, True),
        ("auto", "cuda", True, False, True),
        ("bf16", "cpu", True, False, True),
        ("fp32", "cuda", False, True, False),
    ],
)
def test_cameras_on_a_cpu_without_bf16_instructions_train_in_fp32_unless_asked(
    tiny_recipe, precision, device, cameras, instructions, bf16, monkeypatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions, raising=False)
    assert uses_bf16(tiny_recipe(precision=precision), torch.device(device), cameras) is bf16


def test_a_cpu_without_avx512_trains_in_fp32_unless_asked(tiny_recipe, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not uses_bf16(tiny_recipe(precision="auto"), torch.device("cpu"), False)
    assert uses_bf16(tiny_recipe(precision="bf16"), torch.device("cpu"), False)
    assert uses_bf16(tiny_recipe(precision="auto"), torch.device("cuda"), True)


def test_the_start_and_slow_steps_are_told_where_there_is_no_terminal(
    tiny_recipe, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("ebt_policy.training.run_log.PLAIN_LINE_SECONDS", 0.0)
    train(tiny_recipe(steps=3, log_every=50), tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert re.match(
        r"Training [\d,]+ parameters on [\d,]+ samples of \d+ episodes \(cpu, fp32\), 32", lines[0]
    )
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["1/3", "2/3", "3/3"]
    assert not any("nan" in line for line in lines)
