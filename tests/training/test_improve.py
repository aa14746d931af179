"""Learning from corrections: what is imitated, what stays, what is refused, and what the new run says of itself."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY_FPS, tiny_episode
from equal_runs import assert_equal_runs, interrupt_at
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from safetensors.torch import load_file

from ebt_policy.data.interventions import INTERVENTION, imitated_parts
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError
from ebt_policy.provenance import sha256
from ebt_policy.training.checkpoint import last_checkpoint
from ebt_policy.training.corrections import Mixture, check_features
from ebt_policy.training.improve import improve, improving_recipe
from ebt_policy.training.recipe import load_recipe
from ebt_policy.training.train import train

POLICY = "policy's"  # actions of frames that are not the operator's are -1000


def recorded(
    root: Path,
    flags: list[str] | None,
    *,
    fps: int = TINY_FPS,
    scale: float = 1.0,
    names=("x", "y"),
    lengths=(20,),
) -> Path:
    """Episodes of the tiny dataset's kind. flags: a text for each, x where the operator drove; None: no such column."""
    features = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": list(names)},
        "observation.environment_state": {"dtype": "float32", "shape": (16,), "names": None},
        "action": {"dtype": "float32", "shape": (2,), "names": list(names)},
    }
    if flags is not None:
        features[INTERVENTION] = {"dtype": "bool", "shape": (1,), "names": None}
    data = LeRobotDataset.create("tests/corrections", fps=fps, root=root, features=features, use_videos=False)
    rng = np.random.default_rng(7)
    for episode, length in enumerate(lengths if flags is None else map(len, flags)):
        columns = {name: scale * values for name, values in tiny_episode(rng, length).items()}
        for tick in range(length):
            frame = {name: values[tick].astype(np.float32) for name, values in columns.items()}
            if flags is not None:
                operators = flags[episode][tick] == "x"
                frame[INTERVENTION] = np.array([operators])
                if not operators:
                    frame["action"] = np.full(2, -1000, np.float32)
            data.add_frame(frame | {"task": "push"})
        data.save_episode()
    data.finalize()
    return root


@pytest.fixture(scope="module")
def parent(tiny_recipe, tmp_path_factory) -> Path:
    return train(tiny_recipe(steps=30), tmp_path_factory.mktemp("parent") / "run")


def test_samples_start_and_end_within_the_operators_frames():
    flags = np.array([c == "x" for c in "..xxxx..xxx" + "xxx.."])
    episodes = np.array([0] * 11 + [1] * 5)
    parts, starts = imitated_parts(flags, episodes, unfinished=2)
    assert list(parts) == [-1, -1, 0, 0, 0, 0, -1, -1, 1, 1, 1, 2, 2, 2, -1, -1]
    #  Handed back after the first and third stretch; the second ends with its episode.
    assert "".join("x" if s else "." for s in starts) == "..xx....xxxx...."


@pytest.mark.parametrize("horizon", [1, 8, 40])
def test_no_action_of_the_policy_is_imitated(tmp_path, horizon):
    root = recorded(tmp_path / "data", ["....xxxxxxxx........xxxxxxxxxx", "xxxx......", "....."])
    windows = Windows.from_lerobot(
        "tests/corrections",
        root,
        features=["observation.state", "action"],
        observation_delta_indices=[-2, -1, 0],
        action_delta_indices=list(range(horizon)),
        operators=True,
        unfinished=3,
    )
    batch = windows.batch(torch.arange(len(windows)))
    assert len(windows) == (8 - 3) + 10 + (4 - 3)
    assert (batch["action"] > -900).all()


def test_without_the_column_every_frame_is_imitated(tmp_path):
    root = recorded(tmp_path / "data", None, lengths=(9, 11))
    kept = {"features": ["action"], "observation_delta_indices": None, "action_delta_indices": [0, 1]}
    windows = Windows.from_lerobot("tests/corrections", root, **kept, operators=True, unfinished=3)
    assert len(windows) == 20


@pytest.mark.parametrize(("share", "expected"), [(0.5, 16), (0.1, 3), (0.001, 1), (0.999, 31)])
def test_every_batch_has_the_share_of_corrections(parent, tmp_path, share, expected):
    root = recorded(tmp_path / "data", None)
    mixture = mixture_of(parent, root, share)
    first, seen = len(mixture.demonstrations), []
    for step in range(30):
        order = mixture.order(step, 32, seed=0)
        assert len(order) == 32 and int((order >= first).sum()) == expected
        seen += order.tolist()
    assert set(seen) >= set(range(first, len(mixture))) if expected >= 3 else True


def test_a_mixed_batch_keeps_the_order_of_its_indices(parent, tmp_path):
    mixture = mixture_of(parent, recorded(tmp_path / "data", None), 0.5)
    order = torch.tensor([len(mixture) - 1, 0, len(mixture.demonstrations), 5])
    together = mixture.batch(order)
    for row, index in enumerate(order):
        alone = mixture.batch(index[None])
        assert all(torch.equal(together[name][row], alone[name][0]) for name in alone)


def mixture_of(parent: Path, root: Path, share: float) -> Mixture:
    from ebt_policy.training.data_setup import prepare_data

    recipe = improving_recipe(parent, [str(root)], share=share)
    samples = prepare_data(recipe, torch.device("cpu")).samples(recipe)
    assert isinstance(samples, Mixture)
    return samples


def test_it_starts_at_the_averaged_weights_and_keeps_the_normalisation(parent, tmp_path):
    root = recorded(tmp_path / "data", ["..........xxxxxxxxxxxxxxx"])
    # The demonstrations of today have another spread than those of the run.
    grown = recorded(tmp_path / "grown", None, scale=1.5, lengths=(20, 20, 20, 20))
    overrides = {"optimizer.lr": 0.0, "dataset.root": str(grown)}
    run = improve(parent, [str(root)], tmp_path / "run", steps=2, overrides=overrides)
    before, after = (last_checkpoint(r) / "pretrained_model" for r in (parent, run))
    for name in ["model.safetensors", *(path.name for path in before.glob("policy_*.safetensors"))]:
        a, b = load_file(before / name), load_file(after / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


def test_it_learns_the_corrections(parent, tmp_path):
    root = recorded(tmp_path / "data", None, lengths=(40, 40, 40))
    run = improve(parent, [str(root)], tmp_path / "run", steps=60)
    losses = [correction_loss(one, parent, root) for one in (parent, run)]
    assert losses[1] < 0.8 * losses[0]


def correction_loss(run: Path, parent: Path, root: Path) -> float:
    """Loss of the run's policy on the corrections, with the same noise each time."""
    from lerobot.policies.factory import make_pre_post_processors

    from ebt_policy.inference.runner import load_runner

    policy = load_runner(str(run)).policy
    corrections = mixture_of(parent, root, 0.5).corrections[0]
    folder = str(last_checkpoint(run) / "pretrained_model")
    preprocess, _ = make_pre_post_processors(policy.config, pretrained_path=folder)
    batch = preprocess(corrections.batch(torch.arange(len(corrections))))
    torch.manual_seed(0)
    with torch.no_grad():
        return policy.loss({k: v for k, v in batch.items() if isinstance(v, torch.Tensor)})[0].item()


def test_the_new_run_says_where_it_comes_from(parent, tmp_path):
    root = recorded(tmp_path / "data", ["..........xxxxxxxxxxxxxxx", "....."])
    run = improve(parent, [str(root)], tmp_path / "run", steps=2)
    lineage = json.loads((run / "run.json").read_text())["lineage"]
    checkpoint = last_checkpoint(parent) / "pretrained_model"
    assert lineage["parent_sha256"] == sha256(checkpoint / "model.safetensors")
    assert Path(lineage["parent"]) == checkpoint.resolve()
    (one,) = lineage["corrections"]
    assert one["dataset"] == str(root) and one["episodes"] == 1 and one["samples"] == 15
    known = json.loads((last_checkpoint(run) / "pretrained_model" / "training_episodes.json").read_text())
    assert set(one["fingerprints"]) <= set(known)


def test_a_further_round_keeps_the_corrections_and_the_learning_rate(parent, tmp_path):
    first, second = (recorded(tmp_path / name, None) for name in ("one", "two"))
    run = improve(parent, [str(first)], tmp_path / "run", steps=2)
    again = improving_recipe(run, [str(second)])
    assert again.corrections.datasets == (str(first), str(second))
    assert (
        again.optimizer.lr
        == load_recipe(run / "recipe.yaml").optimizer.lr
        < load_recipe(parent / "recipe.yaml").optimizer.lr
    )


def test_an_interrupted_one_continues_bit_for_bit(parent, tmp_path, monkeypatch):
    root = recorded(tmp_path / "data", None)
    whole = improve(parent, [str(root)], tmp_path / "whole", steps=8)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=5)
        with pytest.raises(KeyboardInterrupt):
            improve(parent, [str(root)], tmp_path / "parts", steps=8)
    parts = improve(parent, [str(root)], tmp_path / "parts", steps=8, resume=True)
    assert_equal_runs(whole, parts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fps": 2 * TINY_FPS}, r"frames a second: the demonstrations have 10, the corrections 20"),
        ({"names": ("y", "x")}, r"observation.state: .*\['x', 'y'\].*\['y', 'x'\].*other joints"),
        ({"scale": 0.01}, r"its values are 0\.0.* times as large .*unit"),
    ],
)
def test_corrections_of_another_kind_are_refused_before_anything_is_written(parent, tmp_path, given, message):
    root = recorded(tmp_path / "data", None, **given)
    with pytest.raises(UserError, match=message):
        improve(parent, [str(root)], tmp_path / "run", steps=2)
    assert not (tmp_path / "run").exists()


def test_recordings_through_the_filter_are_of_the_arm_behind_it():
    def meta(robot: str | None) -> SimpleNamespace:
        return SimpleNamespace(repo_id="a/b", features={}, fps=TINY_FPS, robot_type=robot)

    for pair in (
        ("so_follower", "so_follower"),
        ("so_follower", "ebt_safe"),
        ("ebt_safe", "koch_follower"),
        (None, "koch_follower"),
    ):
        check_features(*map(meta, pair), [])
    with pytest.raises(UserError, match="robot type: .* so_follower, the corrections koch_follower"):
        check_features(meta("so_follower"), meta("koch_follower"), [])


def test_recordings_without_a_correction_are_refused(parent, tmp_path):
    root = recorded(tmp_path / "data", ["....."])
    with pytest.raises(UserError, match="marks as the operator's"):
        improve(parent, [str(root)], tmp_path / "run", steps=2)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_leaves_one_kind_out_is_refused(parent, tmp_path, share):
    with pytest.raises(UserError, match="share must be above 0 and below 1"):
        improve(parent, [str(recorded(tmp_path / "data", None))], tmp_path / "run", share=share)


def test_a_checkpoint_without_its_run_says_so(parent, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (last_checkpoint(parent) / "pretrained_model").iterdir():
        if file.name != "train_config.json":
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="Nothing says what the policy .* was trained on"):
        improve(copy, ["some/where"], tmp_path / "run")
