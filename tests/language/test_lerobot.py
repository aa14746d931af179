"""LeRobot's own commands hand the sentence of the task over to our policies."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from sim_twin import Quick, quick_environment
from test_lerobot_commands import lerobot_here, train_arguments
from two_tasks import LEFT, RIGHT

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.errors import UserError
from ebt_policy.language.choose import condition_on
from ebt_policy.language.task_step import TaskProcessorStep
from ebt_policy.modeling_ebt import EBTPolicy
from ebt_policy.processor_ebt import make_ebt_pre_post_processors


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """The sentences that were turned into vectors, one for each sample."""
    seen: list[str] = []
    original = TaskProcessorStep.vectors

    def vectors(self, sentences):
        seen.extend(sentences)
        return original(self, sentences)

    monkeypatch.setattr(TaskProcessorStep, "vectors", vectors)
    return seen


def test_lerobot_train_conditions_on_the_sentences_of_the_dataset(two_tasks, tmp_path, heard):
    arguments = train_arguments("ebt", ("tests/two_tasks", two_tasks), tmp_path / "run")
    lerobot_here("train", *arguments, "--steps=2")
    assert {LEFT, RIGHT} == set(heard)
    folder = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    config = json.loads((folder / "config.json").read_text())
    assert (config["task_encoder"], config["task_sentences"]) == ("static", [LEFT, RIGHT])
    steps = json.loads((folder / "policy_preprocessor.json").read_text())["steps"]
    (step,) = [step for step in steps if step["registry_name"] == "ebt_task_processor"]
    assert step["config"] == {"encoder": "static", "sentences": [LEFT, RIGHT]}
    assert (folder / step["state_file"]).is_file()


def test_lerobot_eval_tells_the_policy_the_task_of_each_environment(tmp_path, heard, monkeypatch):
    pytest.importorskip("metaworld")
    from ebt_policy.envs.metaworld import MT10, MetaworldSimulator, sentences

    black = np.zeros((32, 32, 3), np.uint8)  # LeRobot makes videos, and OpenGL needs a process of its own
    monkeypatch.setattr(MetaworldSimulator, "picture", lambda *_: black)
    known = [sentences()[task] for task in MT10]
    save_untrained(tmp_path / "policy", known)
    lerobot_here(
        "eval",
        f"--policy.path={tmp_path / 'policy'}",
        "--policy.device=cpu",
        "--env.type=ebt_metaworld",
        "--env.episode_length=9",
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        "--eval.use_async_envs=false",
        "--seed=3",
        f"--output_dir={tmp_path / 'out'}",
    )
    assert heard[:2] == known[3:5] and set(heard) <= set(known)


def test_lerobot_rollout_hands_one_observation_and_one_sentence_over(told):
    """As its engines do: `prepare_observation_for_inference`, the saved preprocessor, `select_action`."""
    run = told / "checkpoints/last/pretrained_model"
    policy = EBTPolicy.from_pretrained(run).eval()
    preprocessor, postprocessor = make_pre_post_processors(policy.config, pretrained_path=str(run))
    for sentence, sign in ((LEFT, -1), (RIGHT, 1)):
        seen = {"observation.state": np.zeros(2, np.float32)}
        batch = prepare_observation_for_inference(seen, torch.device("cpu"), sentence, "arm")
        policy.reset()
        with torch.inference_mode():
            action = postprocessor(policy.select_action(preprocessor(batch)))
        assert action.shape == (1, 2) and np.sign(action.mean().item()) == sign


@pytest.mark.parametrize("inference", ["sync", "rtc"])
def test_lerobot_rollout_tells_the_policy_its_task(tmp_path, heard, monkeypatch, inference):
    printed = roll_out(tmp_path, monkeypatch, f"--task={RIGHT}", f"--inference.type={inference}")
    assert heard and set(heard) == {RIGHT}
    ticks = re.search(r"The simulated episode: (\d+) ticks", printed)
    assert ticks is not None and int(ticks[1]) > 10 and "inference error" not in printed


def test_lerobot_rollout_without_a_task_lists_the_known_ones(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"nothing says which.*{LEFT}.*{RIGHT}"):
        roll_out(tmp_path, monkeypatch)


def roll_out(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """`lerobot-rollout` for a second, by an untrained policy of two tasks on a twin without physics; what it printed."""
    monkeypatch.setattr("ebt_policy.hardware.sim.sim_robot.environment", lambda _: quick_environment(Quick()))
    save_untrained(folder / "policy", [LEFT, RIGHT], (14, 7, 14))
    return lerobot_here(
        "rollout",
        f"--policy.path={folder / 'policy'}",
        "--policy.device=cpu",
        "--robot.type=ebt_sim",
        "--robot.poses_in_state=true",
        f"--robot.calibration_dir={folder}",
        "--return_to_initial_position=false",
        "--fps=50",
        "--duration=1",
        "--play_sounds=false",
        *arguments,
    )


def save_untrained(folder: Path, sentences: list[str], sizes: tuple[int, int, int] = (4, 17, 4)) -> None:
    """A policy of these tasks. sizes: of observation.state, observation.environment_state and the action."""
    state, objects, action = sizes
    config = EBTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (state,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (objects,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
        device="cpu",
        width=16,
        layers=1,
        attention_heads=2,
    )
    condition_on(config, sentences)
    EBTPolicy(config).save_pretrained(folder)
    for processor in make_ebt_pre_post_processors(config, {}):
        processor.save_pretrained(folder)
