"""Export: half the bytes, the same policy within half precision, nothing overwritten."""

import json

import pytest
import torch
from core_fixtures import make_batch, make_policy
from safetensors.torch import load_file, save_file

from ebt_policy.errors import UserError
from ebt_policy.modeling_ebt import EBTPolicy
from ebt_policy.training.export import export


def test_the_exported_policy_acts_alike_at_half_the_size(tmp_path) -> None:
    policy = make_policy(start="zero")
    policy.save_pretrained(tmp_path / "full")
    export(tmp_path / "full", tmp_path / "half")
    full, half = (tmp_path / name / "model.safetensors" for name in ("full", "half"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = EBTPolicy.from_pretrained(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    batch = make_batch(3)
    torch.testing.assert_close(loaded.decide(batch).chunk, policy.decide(batch).chunk, atol=5e-3, rtol=0)
    with pytest.raises(UserError, match="exists"):
        export(tmp_path / "full", tmp_path / "half")


def test_a_weight_that_does_not_fit_is_refused(tmp_path) -> None:
    make_policy().save_pretrained(tmp_path / "full")
    weights = load_file(tmp_path / "full" / "model.safetensors")
    weights["model.trunk.position"] += 1e6
    save_file(weights, tmp_path / "full" / "model.safetensors")
    with pytest.raises(UserError, match="position"):
        export(tmp_path / "full", tmp_path / "half")


def test_the_exported_policy_names_no_folder_of_this_computer(tmp_path) -> None:
    make_policy().save_pretrained(tmp_path / "full")
    config = {
        "output_dir": "/home/me/run",
        "dataset": {"repo_id": "me/data", "root": "/home/me/data"},
        "steps": 7,
    }
    (tmp_path / "full" / "train_config.json").write_text(json.dumps(config))
    export(tmp_path / "full", tmp_path / "half")
    exported = json.loads((tmp_path / "half" / "train_config.json").read_text())
    assert exported == {"output_dir": None, "dataset": {"repo_id": "me/data", "root": None}, "steps": 7}
