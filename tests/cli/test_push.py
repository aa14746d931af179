"""`ebt-policy push` uploads a complete policy with a model card and without local paths."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest

from ebt_policy.cli.push import push, stage
from ebt_policy.errors import UserError
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.runner import load_runner
from ebt_policy.provenance import sha256
from ebt_policy.training.train import train

SHIPPED = "shipped:pusht_keypoints_ebt"


@pytest.fixture
def evaluation(tmp_path):
    def write(digest: str):
        path = tmp_path / "eval.json"
        figures = {"env": "pusht_keypoints", "success_rate": 0.5, "success_ci95": [0.4, 0.6], "episodes": 100}
        figures |= {"evaluations_per_decision": 2.0, "seed": 7, "checkpoint_sha256": digest}
        path.write_text(json.dumps(figures))
        return path

    return write


def test_the_upload_runs_and_its_card_says_what_one_needs(tiny_recipe, tmp_path, evaluation):
    run = train(tiny_recipe(steps=1), tmp_path / "run")
    output = tmp_path / "out"
    output.mkdir()
    folder = find_checkpoint(run)
    stage(folder, "me/my_policy", output, evaluation(sha256(folder / "model.safetensors")))
    assert load_runner(output).config.dataset_fps == 10
    card = huggingface_hub.ModelCard.load(output / "README.md")
    assert {"lerobot", "ebt"} <= set(card.data.tags) and card.data.datasets == "tests/tiny_pusht"
    for part in (
        "pip install lerobot_policy_ebt",
        "arxiv.org/abs/2510.27545",
        "tests/tiny_pusht",
        "50.0 % | 40.0 to 60.0 % | 100",
        "Actions, in this order: x, y",
        "10 ticks a second",
        "steps: 1",
        "ebt-policy serve --policy me/my_policy",
    ):
        assert part in card.text
    for path in output.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_lerobots_own_push_makes_the_same_card(tiny_recipe, tmp_path):
    run = train(tiny_recipe(steps=1), tmp_path / "run")
    card = load_runner(run).policy.generate_model_card("me/data", "ebt", None, ["mine"])
    assert "pip install lerobot_policy_ebt" in card.text and "Not evaluated yet" in card.text
    assert "mine" in card.data.tags and card.data.license == "apache-2.0"


def test_an_evaluation_of_another_checkpoint_is_refused(tmp_path, evaluation):
    with pytest.raises(UserError, match="its checkpoint is another one"):
        stage(find_checkpoint(SHIPPED), "me/my_policy", tmp_path, evaluation("0" * 64))


def test_push_makes_the_repository_uploads_and_tags(monkeypatch, capsys):
    calls = []

    class Api:
        def __getattr__(self, name):
            def call(*arguments, **options):
                calls.append(name)
                if name == "upload_folder":
                    files = {path.name for path in options["folder_path"].iterdir()}
                    assert {"README.md", "config.json", "model.safetensors"} <= files
                return SimpleNamespace(oid="abc")

            return call

    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        push(SHIPPED, "me/my_policy")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    push(SHIPPED, "me/my_policy", tag="v1")
    assert calls == ["create_repo", "upload_folder", "create_tag"]
    assert "huggingface.co/me/my_policy (tag v1)" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected USER/NAME"):
        push(SHIPPED, "my_policy")
