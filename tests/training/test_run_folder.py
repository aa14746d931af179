"""The folder of a run: one process at a time, more steps extend it, a full disk does not damage it."""

import errno
import json

import pytest
from safetensors import SafetensorError

from ebt_policy.errors import UserError
from ebt_policy.training import checkpoint as checkpoint_module
from ebt_policy.training.checkpoint import last_checkpoint
from ebt_policy.training.run_folder import disk_errors, locked
from ebt_policy.training.run_log import read_metrics
from ebt_policy.training.train import train


def test_more_steps_extend_a_finished_run_on_the_longer_schedule(tiny_recipe, tmp_path, capsys):
    recipe = {"warmup_steps": 2, "log_every": 1, "checkpoint_every": 8}
    whole = train(tiny_recipe(steps=16, **recipe), tmp_path / "whole")
    run = train(tiny_recipe(steps=8, **recipe), tmp_path / "run")
    assert read_metrics(run)[-1]["step"] == 8
    capsys.readouterr()
    train(tiny_recipe(steps=16, **recipe), run, resume=True)
    assert "Extended from 8 to 16 steps" in capsys.readouterr().out
    rates, expected = ([row["lr"] for row in read_metrics(path)] for path in (run, whole))
    assert rates[8:] == pytest.approx(expected[8:], rel=1e-9), "from the extension on, that of one long run"
    assert json.loads((run / "run.json").read_text())["resumed"][0]["from_step"] == 8
    assert last_checkpoint(run).name == "000016"
    with pytest.raises(UserError, match="steps was 16, now 12.*Only more steps extend"):
        train(tiny_recipe(steps=12, **recipe), run, resume=True)


def test_one_process_at_a_time_trains_in_a_folder(tiny_recipe, tmp_path):
    run = train(tiny_recipe(steps=4), tmp_path / "run")
    before = sorted(path.name for path in run.rglob("*"))
    with locked(run), pytest.raises(UserError, match="Another process is training in"):
        train(tiny_recipe(steps=8), run, resume=True)
    assert sorted(path.name for path in run.rglob("*")) == before
    assert train(tiny_recipe(steps=8), run, resume=True) == run, "the lock is gone with its owner"


def test_a_new_run_is_refused_while_another_begins_in_its_folder(tiny_recipe, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(UserError, match="Another process is training in"):
        train(tiny_recipe(), tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # as safetensors raises it on a full tmpfs
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["system", "safetensors"],
)
def test_a_full_disk_is_one_clear_line_and_leaves_the_run_whole(tiny_recipe, tmp_path, monkeypatch, error):
    run = tmp_path / "run"
    original = checkpoint_module.save_model

    def save_model(model, path):
        if "000010" in path:
            raise error
        original(model, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_model", save_model)
        with pytest.raises(
            UserError, match=r"disk of .* is full; free some space.*--resume: .* up to step 5"
        ):
            train(tiny_recipe(), run)
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["000005", "last"]
    assert train(tiny_recipe(), run, resume=True) == run
    assert last_checkpoint(run).name == "000012"


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
