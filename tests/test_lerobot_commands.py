"""LeRobot's own commands, run as a user would, find the plugin and agree with it on every file."""

import importlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class
from safetensors.torch import load_file, save_file
from tiny_policies import TINY_POLICIES

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.errors import UserError
from ebt_policy.inference.robot_contract import read_robot_contract
from ebt_policy.modeling_ebt import EBTPolicy
from ebt_policy.processor_ebt import make_ebt_pre_post_processors
from ebt_policy.training.checkpoint import last_checkpoint
from ebt_policy.training.train import train

PUSHT = ["--env.obs_type=environment_state_agent_pos", "--env.episode_length=10"]
ONE_EPISODE = ["--eval.n_episodes=1", "--eval.batch_size=1", "--policy.device=cpu"]


def lerobot(command: str, *arguments: str) -> str:
    """Runs `lerobot-<command>` in a process of its own, offline; returns what it printed."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1"}
    program = Path(sys.executable).with_name(f"lerobot-{command}")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def lerobot_here(command: str, *arguments: str) -> str:
    """The same in this process, which spares the import of LeRobot, after another test has shown that the command starts."""
    module = importlib.import_module(f"lerobot.scripts.lerobot_{command}")
    root, printed = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level  # LeRobot replaces them
    AcceleratorState._reset_state(reset_partial_state=True)  # it is one for each process
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
            patch.setattr(sys, "argv", [f"lerobot-{command}", *arguments])
            module.main()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        root.handlers[:], root.level = handlers, level
    return printed.getvalue()


def train_arguments(policy: str, dataset: tuple[str, Path], output: Path) -> list[str]:
    repo_id, root = dataset
    options = TINY_POLICIES.get(policy, TINY_POLICIES["ebt"])
    return [
        f"--policy.type={policy}",
        *(f"--policy.{name}={value}" for name, value in options.items()),
        "--policy.push_to_hub=false",
        "--policy.device=cpu",
        f"--dataset.repo_id={repo_id}",
        f"--dataset.root={root}",
        "--dataset.eval_split=0.25",
        "--eval_steps=2",
        f"--output_dir={output}",
        "--steps=4",
        "--save_freq=2",
        "--log_freq=1",
        "--batch_size=8",
        "--num_workers=0",
        "--wandb.enable=false",
    ]


def evaluate(checkpoint: Path, output: Path, run: Callable[..., str] = lerobot) -> dict:
    run(
        "eval",
        f"--policy.path={checkpoint / 'pretrained_model'}",
        "--env.type=pusht",
        *PUSHT,
        *ONE_EPISODE,
        "--eval.use_async_envs=false",
        f"--output_dir={output}",
    )
    return json.loads((output / "eval_info.json").read_text())["overall"]


def test_train_resume_evaluate_and_strict_reload(tiny_dataset, tmp_path):
    run = tmp_path / "run"
    printed = lerobot("train", *train_arguments("ebt", tiny_dataset, run))
    assert "step 4: eval_loss=" in printed and " mse:" in printed

    half = run / "checkpoints" / "000002" / "pretrained_model" / "train_config.json"
    printed = lerobot_here("train", f"--config_path={half}", "--resume=true", "--steps=6")
    assert "step:3 " in printed and "step:6 " in printed
    checkpoint = last_checkpoint(run)
    assert checkpoint is not None and checkpoint.name == "000006"

    result = evaluate(checkpoint, tmp_path / "eval", lerobot_here)
    assert result["n_episodes"] == 1

    folder = checkpoint / "pretrained_model"
    contract = read_robot_contract(folder)
    assert contract.state_names == contract.action_names == ("x", "y") and not contract.unknown()
    config = PreTrainedConfig.from_pretrained(folder)
    policy_class = get_policy_class(config.type)
    stored = load_file(folder / "model.safetensors")
    policy = policy_class.from_pretrained(folder, config=config)
    assert all(torch.equal(value, stored[name]) for name, value in policy.state_dict().items())
    for broken in (stored | {"extra.weight": torch.zeros(1)}, dict(list(stored.items())[1:])):
        save_file(broken, folder / "model.safetensors")
        with pytest.raises(UserError, match=r"model\.safetensors"):
            policy_class.from_pretrained(folder, config=config)


def test_a_dataset_with_cameras_trains_with_default_options(two_cameras, tmp_path):
    """One observation step, a video and a picture camera, batches of one sample."""
    arguments = train_arguments("ebt", two_cameras, tmp_path / "run")
    lerobot_here("train", *(a for a in arguments if "eval" not in a), "--steps=1", "--batch_size=1")
    checkpoint = last_checkpoint(tmp_path / "run")
    assert checkpoint is not None and (checkpoint / "pretrained_model" / "model.safetensors").exists()


@pytest.mark.slow
def test_training_with_cameras_resumes_and_is_tuned_further(two_cameras, tmp_path):
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    transforms = "--dataset.image_transforms.enable=true"
    lerobot("train", *train_arguments("ebt", two_cameras, run), transforms)
    config = run / "checkpoints" / "000002" / "pretrained_model" / "train_config.json"
    assert "step:5 " in lerobot("train", f"--config_path={config}", "--resume=true", "--steps=5")

    options = [a for a in train_arguments("ebt", two_cameras, tuned) if not a.startswith("--policy.")]
    path = f"--policy.path={run / 'checkpoints' / 'last' / 'pretrained_model'}"
    lerobot("train", path, "--policy.push_to_hub=false", "--policy.device=cpu", *options, transforms)
    assert (tuned / "checkpoints" / "000004").is_dir()


@pytest.mark.slow
def test_our_checkpoints_go_on_under_lerobots_commands(tiny_dataset, tiny_recipe, tmp_path):
    run = train(tiny_recipe(dataset={"symmetry": "pusht"}), tmp_path / "run")
    checkpoint = last_checkpoint(run)
    assert checkpoint is not None
    assert evaluate(checkpoint, tmp_path / "eval")["n_episodes"] == 1

    config = checkpoint / "pretrained_model" / "train_config.json"
    lerobot("train", f"--config_path={config}", "--resume=true", "--steps=14", "--num_workers=0")
    assert (run / "checkpoints" / "000014").is_dir()

    repo_id, root = tiny_dataset
    lerobot(
        "train",
        f"--policy.path={checkpoint / 'pretrained_model'}",
        "--policy.push_to_hub=false",
        f"--dataset.repo_id={repo_id}",
        f"--dataset.root={root}",
        f"--output_dir={tmp_path / 'tuned'}",
        "--steps=2",
        "--batch_size=8",
        "--num_workers=0",
    )
    assert (tmp_path / "tuned" / "checkpoints" / "000002" / "pretrained_model" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["matched_baseline"])
def test_other_policies_of_the_plugin_train_and_evaluate(policy, tiny_dataset, tmp_path):
    run = tmp_path / "run"
    lerobot("train", *train_arguments(policy, tiny_dataset, run))
    assert evaluate(last_checkpoint(run), tmp_path / "eval")["n_episodes"] == 1


@pytest.mark.slow
def test_asynchronous_environments_of_the_plugin(tiny_recipe, tmp_path):
    """LeRobot's own pusht cannot do this: its forked workers do not know the environment."""
    run = train(tiny_recipe(), tmp_path / "run")
    lerobot(
        "eval",
        f"--policy.path={last_checkpoint(run) / 'pretrained_model'}",
        "--env.type=ebt_pusht",
        *PUSHT,
        "--policy.device=cpu",
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        f"--output_dir={tmp_path / 'eval'}",
    )
    overall = json.loads((tmp_path / "eval" / "eval_info.json").read_text())["overall"]
    assert overall["n_episodes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "task", "sizes"),
    [
        ("adroit", "door", (30, 9, 28)),
        ("robosuite", "Lift", (9, 7, 7)),
        ("ebt_aloha", "transfer_cube", (14, 7, 14)),
    ],
)
def test_mujoco_tasks_in_asynchronous_environments(env, task, sizes, tmp_path):
    state, objects, actions = sizes
    shapes = {"observation.state": state, "observation.environment_state": objects, "action": actions}
    config = EBTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (state,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (objects,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (actions,))},
        device="cpu",
        width=16,
        layers=1,
    )
    EBTPolicy(config).save_pretrained(tmp_path / "policy")
    stats = {name: {"min": -torch.ones(size), "max": torch.ones(size)} for name, size in shapes.items()}
    for processor in make_ebt_pre_post_processors(config, stats):
        processor.save_pretrained(tmp_path / "policy")
    lerobot(
        "eval",
        f"--policy.path={tmp_path / 'policy'}",
        f"--env.type={env}",
        f"--env.task={task}",
        "--env.episode_length=6",
        "--policy.device=cpu",
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        "--eval.use_async_envs=true",
        f"--output_dir={tmp_path / 'eval'}",
    )
    assert json.loads((tmp_path / "eval" / "eval_info.json").read_text())["overall"]["n_episodes"] == 2
