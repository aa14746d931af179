"""Files with the option names of earlier versions are still read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from core_fixtures import make_policy
from lerobot.configs.policies import PreTrainedConfig
from timelines import decision, timeline

import ebt_policy
from ebt_policy.eval.rollout.timeline import read, write
from ebt_policy.inference.checkpoints import list_shipped
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.monitoring.distillation import Distillation, DistillationConfig
from ebt_policy.monitoring.transition import TransitionConfig, TransitionEnergy


def rename(file: Path, names: dict[str, str]) -> None:
    data = json.loads(file.read_text())
    file.write_text(json.dumps({names.get(k, k): v for k, v in data.items()}))


@pytest.mark.parametrize("name", list_shipped())
def test_shipped_checkpoints_load_and_act(name: str):
    runner = load_runner(f"shipped:{name}")
    features = runner.config.input_features
    seen = {k: np.full((1, runner.n_obs_steps, *f.shape), 0.5, np.float32) for k, f in features.items()}
    actions = runner.decide(seen, Noise.from_seeds([0])).actions
    assert actions.shape == (1, runner.n_action_steps, *runner.config.action_feature.shape)


def test_four_checkpoints_are_shipped():
    assert len(list_shipped()) == 4


def test_a_config_with_former_option_names_is_the_same_config(tmp_path: Path):
    make_policy(step_size=0.4).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["relaxation"] = saved.pop("step_size")
    (tmp_path / "config.json").write_text(json.dumps(saved))
    config = PreTrainedConfig.from_pretrained(tmp_path)
    assert isinstance(config, ebt_policy.EBTConfig)
    assert (config.step_size, config.relaxation) == (0.4, None)


def test_timelines_with_rungs_are_read(tmp_path: Path):
    written = timeline(decisions=(decision(0, recovery="think"), decision(8)))
    path = write(tmp_path, written)
    data = json.loads(path.read_text())
    for one in data["decisions"]:
        one["rung"] = one.pop("recovery")
    path.write_text(json.dumps(data))
    assert read(path) == written


def test_nets_of_learned_signals_with_scenes_are_read(tmp_path: Path):
    novelty = Distillation(DistillationConfig(features=5, checkpoint_sha256="", outputs=7))
    energy = TransitionEnergy(TransitionConfig(features=5, actions=2, checkpoint_sha256=""))
    novelty.save(tmp_path)
    energy.save(tmp_path)
    rename(tmp_path / "rnd.json", {"features": "scene", "outputs": "features"})
    rename(tmp_path / "transition.json", {"features": "scene"})
    x = torch.rand(3, 5)
    assert torch.equal(Distillation.load(tmp_path)(x), novelty(x))
    assert torch.equal(TransitionEnergy.load(tmp_path)(x, x[:, :2], x), energy(x, x[:, :2], x))
