"""The throughput comparison runs on any dataset and reports the ratio of both sides."""

import json

import pytest

from ebt_policy.eval.benchmarks.throughput import LOG_LINE, Throughput, throughput
from ebt_policy.training.recipe import DatasetRecipe, TrainRecipe


def tiny_recipe(tiny_dataset) -> TrainRecipe:
    repo_id, root = tiny_dataset
    return TrainRecipe(
        policy={"type": "ebt", "width": 32, "layers": 1},
        dataset=DatasetRecipe(repo_id, str(root), held_out_fraction=0.25),
        batch_size=32,
        device="cpu",
        precision="fp32",
    )


def test_the_data_path_is_many_times_faster(tiny_dataset, tmp_path):
    path = tmp_path / "throughput.json"
    result = throughput(tiny_recipe(tiny_dataset), workers=0, batches=4, training=False, json_path=path)
    assert result.data_ratio > 20  # thousands on a quiet machine
    assert result.training_ratio is None
    assert json.loads(path.read_text())["data_ratio"] == result.data_ratio


@pytest.mark.slow
def test_training_is_timed_on_both_sides(tiny_dataset):
    result = throughput(tiny_recipe(tiny_dataset), workers=0, batches=4, steps=8)
    assert result.training_ours > 0
    assert result.training_lerobot > 0


def test_ratios_are_against_lerobots_faster_loader():
    rates = {"data_ours": 1000.0, "data_lerobot_in_process": 5.0, "data_lerobot_workers": 10.0}
    result = Throughput("d", "ebt", 256, 4, 2, 0.0, **rates, training_ours=30.0, training_lerobot=10.0)
    assert result.data_ratio == 100
    assert result.training_ratio == 3


def test_lerobots_log_line_is_understood():
    line = "ot_train.py:641 step:16 smpl:4K ep:33 loss:0.281 lr:2.5e-05 updt_s:4.620 data_s:0.036 smp/s:55"
    assert LOG_LINE.findall(line) == [("4.620", "0.036")]
