"""Checkpoints: what LeRobot can read of them, strictness, atomicity, and no pickle anywhere."""

import random

import lerobot.policies  # noqa: F401  (registers LeRobot's own policies)
import numpy as np
import pytest
import torch
from lerobot.common.train_utils import load_training_state
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from safetensors.torch import load_file, save_file

from ebt_policy.training.checkpoint import (
    TRAINER,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
    schedule,
)
from ebt_policy.training.loop import Loop
from ebt_policy.training.train import train


@pytest.fixture
def trained(tiny_recipe, tmp_path):
    """(recipe, run folder, the loop at its end) of a finished run with two checkpoints."""
    loops = []
    original = Loop.__init__

    def remember(self, *args):
        original(self, *args)
        loops.append(self)

    recipe = tiny_recipe(steps=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "__init__", remember)
        run = train(recipe, tmp_path / "run")
    return recipe, run, loops[0]


def test_layout_is_lerobots_and_holds_no_pickle(trained):
    _, run, _ = trained
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000005", "000008", "last"]
    assert (run / "checkpoints" / "last").resolve() == last_checkpoint(run)
    files = [path for path in (run / "checkpoints" / "000008").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    names = {path.name for path in files}
    assert {"config.json", "model.safetensors", "train_config.json", "policy_preprocessor.json"} <= names
    assert not (run / "checkpoints" / "000005" / "training_state").exists(), (
        "only the newest can be gone on with"
    )
    assert (run / "checkpoints" / "000005" / "pretrained_model" / "model.safetensors").exists()


def test_saved_policy_is_the_average_and_lerobot_loads_it(trained):
    _, run, loop = trained
    folder = last_checkpoint(run) / "pretrained_model"
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    average, raw = loop.trainer.average.state_dict(), loop.trainer.policy.state_dict()
    for name, value in policy.state_dict().items():
        assert torch.equal(value, average[name])
    assert any(not torch.equal(average[name], raw[name]) for name in average)
    preprocessor, _ = make_pre_post_processors(config, pretrained_path=str(folder))
    batch = loop.windows.batch(torch.arange(4))
    again, first = preprocessor(batch), loop.preprocessor(batch)
    assert torch.equal(again["observation.environment_state"], first["observation.environment_state"])


def test_lerobot_reads_the_training_state(trained):
    """What `lerobot-train --resume` does: one parameter group from policy.parameters(), its own scheduler."""
    recipe, run, loop = trained
    checkpoint = last_checkpoint(run)
    config = TrainPipelineConfig.from_pretrained(checkpoint / "pretrained_model")
    assert config.steps == recipe.steps and config.batch_size == recipe.batch_size
    optimizer = config.optimizer.build(loop.trainer.policy.parameters())
    scheduler = config.scheduler.build(optimizer, config.steps)
    step, optimizer, scheduler = load_training_state(checkpoint, optimizer, scheduler)
    assert step == recipe.steps == scheduler.last_epoch
    for parameter in loop.trainer.policy.parameters():
        theirs, ours = optimizer.state[parameter], loop.trainer.optimizer.state[parameter]
        assert all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_random_generators_come_back_exactly(trained):
    recipe, run, loop = trained
    np.random.standard_normal()  # leaves a second normal in numpy's cache
    loop.trainer.step = 9
    checkpoint = save_checkpoint(run, loop.trainer, recipe, loop.preprocessor, loop.preprocessor)

    def draw():
        return random.random(), np.random.standard_normal(), torch.randn(3).tolist()

    expected = draw()
    draw()
    load_checkpoint(checkpoint, loop.trainer)
    assert draw() == expected


@pytest.mark.parametrize(
    "file", ["training_state/raw_model.safetensors", "pretrained_model/model.safetensors"]
)
@pytest.mark.parametrize("fault", ["missing", "extra"])
def test_missing_or_extra_tensor_is_an_error(trained, file, fault):
    _, run, loop = trained
    path = last_checkpoint(run) / file
    stored = load_file(path)
    stored["extra.weight"] = torch.zeros(1)
    if fault == "missing":
        del stored["extra.weight"], stored[next(iter(stored))]
    save_file(stored, path)
    with pytest.raises(RuntimeError):
        load_checkpoint(last_checkpoint(run), loop.trainer)


def test_unfinished_checkpoint_is_never_the_last_one(trained, monkeypatch):
    recipe, run, loop = trained

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("ebt_policy.training.checkpoint.write_json", full_disk)
    loop.trainer.step = 9
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(run, loop.trainer, recipe, loop.preprocessor, loop.preprocessor)
    assert last_checkpoint(run).name == "000008"
    assert (last_checkpoint(run) / "training_state" / TRAINER).exists()


def test_schedule_warms_up_and_ends_at_zero(tiny_recipe):
    recipe = tiny_recipe(steps=100, warmup_steps=10)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(recipe).build(optimizer, recipe.steps)
    rates = []
    for _ in range(recipe.steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates.index(max(rates)) == 10 and max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and scheduler.get_last_lr()[0] == 0.0
