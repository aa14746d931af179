"""Files with the option names of earlier versions are still read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from core_fixtures import make_policy
from draccus.utils import DecodingError
from lerobot.configs.policies import PreTrainedConfig
from timelines import decision, timeline

import ebt_policy
from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.timeline import read, write
from ebt_policy.inference.checkpoints import list_shipped
from ebt_policy.inference.runner import load_runner
from ebt_policy.language.encoders import TASK
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
    told = {TASK: np.array(runner.sentences[:1])} if runner.sentences else {}
    actions = runner.decide(seen | told, Noise.from_seeds([0])).actions
    assert actions.shape == (1, runner.n_action_steps, *runner.config.action_feature.shape)


def test_seven_checkpoints_are_shipped():
    assert len(list_shipped()) == 7


FORMER = {"zero_start_share": 0.0, "matching_target": "linear", "teacher_path": None, "verifier_weight": 0.0}


def saved_config(folder: Path, changes: dict, without: tuple[str, ...] = ()) -> PreTrainedConfig:
    make_policy(step_size=0.4).save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in saved.items() if k not in without}))
    return PreTrainedConfig.from_pretrained(folder)


def test_a_config_with_former_options_acts_as_it_was_trained(tmp_path: Path) -> None:
    former = FORMER | {"noise_power": 1.0, "relaxation": 0.4}
    config = saved_config(tmp_path, former, without=("noise_levels", "step_size"))
    assert isinstance(config, ebt_policy.EBTConfig)
    assert (config.step_size, config.noise_levels) == (0.4, None)
    config.save_pretrained(tmp_path)  # and stays so
    assert PreTrainedConfig.from_pretrained(tmp_path).noise_levels is None


def test_a_config_with_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodingError, match="no_such_option"):
        saved_config(tmp_path, {"no_such_option": 1})
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (tmp_path / name).write_text('{"steps": []}')
    with pytest.raises(UserError, match="no_such_option.* newer version"):
        load_runner(tmp_path)


@pytest.mark.parametrize("gone", [{"head": "dot"}, {"objective": "two_step"}])
def test_what_was_removed_is_named(gone: dict, tmp_path: Path) -> None:
    with pytest.raises(Exception) as raised:
        saved_config(tmp_path, gone)
    assert "was removed" in f"{raised.value} {raised.value.__cause__}"


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
