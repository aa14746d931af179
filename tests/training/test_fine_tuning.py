"""policy.pretrained_path: the checkpoint's options are kept; its inputs must be in the dataset, by name or rename map."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.rename_processor import RenameObservationsProcessorStep
from safetensors.torch import load_file

from ebt_policy.errors import UserError
from ebt_policy.eval.failures.recorded import recorded_signals
from ebt_policy.hardware.planners.local_planner import LocalPlanner
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.monitoring.watched import WatchedRunner
from ebt_policy.training import data_setup
from ebt_policy.training.checkpoint import last_checkpoint
from ebt_policy.training.recipe import decode_recipe
from ebt_policy.training.train import train

STATE, LEFT, WRIST = "observation.state", "observation.images.left", "observation.images.wrist"
SIZES = {"type": "ebt", "width": 24, "layers": 1, "attention_heads": 2}


def filmed(
    root: Path, cameras: tuple[str, ...], joints: int = 2, size: tuple[int, int] = (32, 32)
) -> tuple[str, Path]:
    """Two episodes of 9 frames; cameras (given by the end of their names) see one colour each."""
    vector = {"dtype": "float32", "shape": (joints,), "names": None}
    camera = {"dtype": "image", "shape": (*size, 3), "names": ["height", "width", "channels"]}
    names = {f"observation.images.{name}": 40 * (i + 1) for i, name in enumerate(cameras)}
    features = {STATE: vector, "action": vector} | dict.fromkeys(names, camera)
    dataset = LeRobotDataset.create("tests/filmed", fps=10, root=root, features=features)
    rng = np.random.default_rng(0)
    for _ in range(2):
        for state in rng.normal(size=(9, joints)).astype(np.float32):
            pictures = {name: np.full((*size, 3), colour, np.uint8) for name, colour in names.items()}
            dataset.add_frame({STATE: state, "action": 2 * state, "task": "go"} | pictures)
        dataset.save_episode()
    dataset.finalize()
    return "tests/filmed", root


def recipe(dataset: tuple[str, Path], policy: dict, **data):
    return decode_recipe(
        {
            "policy": policy,
            "dataset": {"repo_id": dataset[0], "root": str(dataset[1]), "held_out_fraction": 0} | data,
            "steps": 1,
            "batch_size": 4,
            "warmup_steps": 0,
            "precision": "fp32",
            "threads": 1,
            "device": "cpu",
            "optimizer": {"lr": 0.0},  # the weights stay those of the checkpoint
        }
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A policy that looks through the cameras `left` and `wrist`."""
    folder = tmp_path_factory.mktemp("pretrained")
    data = filmed(folder / "data", ("left", "wrist"))
    return train(recipe(data, SIZES | {"n_action_steps": 3}), folder / "run")


@pytest.fixture(scope="module")
def renamed(tmp_path_factory) -> tuple[str, Path]:
    """The same cameras by names whose alphabetical order is the opposite."""
    return filmed(tmp_path_factory.mktemp("renamed") / "data", ("side", "arm"))


def shown(colour: int) -> np.ndarray:
    """What a camera gives, (1, 1, 3, 32, 32) in 0..1."""
    return np.full((1, 1, 3, 32, 32), colour / 255, np.float32)


def config_of(run: Path) -> dict:
    return json.loads((last_checkpoint(run) / "pretrained_model" / "config.json").read_text())


def test_the_checkpoints_own_options_and_weights_hold(pretrained, tmp_path, capsys):
    data = ("tests/filmed", pretrained.parent / "data")
    policy = {"type": "ebt", "pretrained_path": str(pretrained), "n_action_steps": 4}
    run = train(recipe(data, policy), tmp_path / "run")
    before, after = config_of(pretrained), config_of(run)
    differing = {key for key in before if before[key] != after[key]}
    assert differing == {"n_action_steps", "pretrained_path"}
    assert "Options that the recipe changes: n_action_steps 3 -> 4." in capsys.readouterr().out
    weights = [
        load_file(last_checkpoint(r) / "pretrained_model" / "model.safetensors") for r in (pretrained, run)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_cameras_by_other_names_are_refused_with_a_rename_map_to_try(pretrained, renamed, tmp_path):
    policy = {"type": "ebt", "pretrained_path": str(pretrained)}
    with pytest.raises(UserError, match=r"does not provide .*left.*wrist.*--set dataset\.rename_map='\{"):
        train(recipe(renamed, policy), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rename_map_gives_each_camera_its_place(pretrained, renamed, tmp_path):
    policy = {"type": "ebt", "pretrained_path": str(pretrained)}
    pairs = {
        "observation.images.side": "observation.images.left",
        "observation.images.arm": "observation.images.wrist",
    }
    run = train(recipe(renamed, policy, rename_map=pairs), tmp_path / "run")
    folder = last_checkpoint(run) / "pretrained_model"
    assert config_of(run)["input_features"].keys() == config_of(pretrained)["input_features"].keys()
    (statistics,) = folder.glob("policy_preprocessor*normalizer*.safetensors")
    means = load_file(statistics)
    assert means["observation.images.left.mean"].flatten()[0] == pytest.approx(40 / 255, abs=1e-5)
    assert means["observation.images.wrist.mean"].flatten()[0] == pytest.approx(80 / 255, abs=1e-5)
    steps = json.loads((folder / "policy_preprocessor.json").read_text())["steps"]
    assert [s["config"]["rename_map"] for s in steps if "rename_map" in s.get("config", {})] == [pairs]
    # Whatever takes observations by name takes those of its data, and those of the policy.
    runner = load_runner(run)
    assert set(runner.needs) == {STATE, *pairs}
    state = np.zeros((1, 1, 2), np.float32)
    named = {
        STATE: state,
        **{new: shown(colour) for new, colour in zip(pairs.values(), (50, 100), strict=True)},
    }
    recorded = {STATE: state, **{old: named[new] for old, new in pairs.items()}}
    pipeline = {name: torch.from_numpy(value) for name, value in recorded.items()}
    seen = {k: v for k, v in runner.preprocessor(pipeline).items() if k.startswith("observation.")}
    for observations in (recorded, named, recorded | {name: shown(200) for name in pairs.values()}):
        given = runner.decide(observations, Noise.from_seeds([0])).observations
        assert given.keys() == seen.keys() and all(torch.equal(given[name], seen[name]) for name in seen)
    assert seen[LEFT].mean() != seen[WRIST].mean()
    with pytest.raises(UserError, match=r"not give 'observation\.images\.arm'.*trained on .*images\.arm"):
        runner.decide({k: v for k, v in recorded.items() if not k.endswith("arm")}, Noise.from_seeds([0]))
    assert LocalPlanner(WatchedRunner(runner), fps=10).needs.keys() == runner.needs.keys()
    assert len(recorded_signals(runner, *renamed)) == 2


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> tuple[str, Path]:
    """A camera before and one after both of the policy's: `left` is 80, `wrist` 120."""
    return filmed(tmp_path_factory.mktemp("three") / "data", ("arm", "left", "wrist", "side"))


@pytest.mark.parametrize(("source", "colour"), [("arm", 40), ("side", 160)])
def test_a_name_in_the_map_wins_over_the_dataset_s_own(pretrained, three, tmp_path, source, colour):
    policy = {"type": "ebt", "pretrained_path": str(pretrained)}
    name = f"observation.images.{source}"
    run = train(recipe(three, policy, rename_map={name: LEFT}), tmp_path / "run")
    folder = last_checkpoint(run) / "pretrained_model"
    (statistics,) = folder.glob("policy_preprocessor*normalizer*.safetensors")
    means = load_file(statistics)
    assert means[f"{LEFT}.mean"].flatten()[0] == pytest.approx(colour / 255, abs=1e-5)
    assert means[f"{WRIST}.mean"].flatten()[0] == pytest.approx(120 / 255, abs=1e-5)
    steps = PolicyProcessorPipeline.from_pretrained(folder, config_filename="policy_preprocessor.json").steps
    (step,) = [step for step in steps if isinstance(step, RenameObservationsProcessorStep)]
    for names in ((name, LEFT, WRIST), (WRIST, LEFT, name)):  # LeRobot hands them over in any order
        assert step.observation({n: n for n in names})[LEFT] == name
    given = {STATE: np.zeros((1, 1, 2), np.float32), LEFT: shown(80), WRIST: shown(120)}
    with pytest.raises(UserError, match=f"does not give '{name}'"):  # `left` is another camera in its data
        load_runner(run).decide(given, Noise.from_seeds([0]))


def test_two_cameras_for_one_place_are_refused(pretrained, three, tmp_path):
    policy = {"type": "ebt", "pretrained_path": str(pretrained)}
    both = {f"observation.images.{name}": LEFT for name in ("arm", "side")}
    with pytest.raises(UserError, match=r"gives 'observation\.images\.left' to .*arm, .*side\. Keep one"):
        train(recipe(three, policy, rename_map=both), tmp_path / "run")


def test_larger_pictures_are_refused_before_they_are_read_or_made_smaller(pretrained, tmp_path, monkeypatch):
    data = filmed(tmp_path / "data", ("left", "wrist"), size=(48, 64))
    policy = {"type": "ebt", "pretrained_path": str(pretrained)}
    with monkeypatch.context() as patch:
        patch.setattr(data_setup.Windows, "from_lerobot", lambda *a, **k: pytest.fail("decoded"))
        with pytest.raises(UserError, match=r"left.*\(3, 32, 32\).*\(3, 48, 64\).*resize_shape='\[32, 32\]'"):
            train(recipe(data, policy), tmp_path / "run")
    run = train(recipe(data, policy | {"resize_shape": [32, 32]}), tmp_path / "run")
    assert config_of(run)["input_features"][LEFT]["shape"] == [3, 48, 64]
    # From now on any size will do, also to LeRobot's commands, which make the config from the dataset or environment.
    again = filmed(tmp_path / "again", ("left", "wrist"), size=(40, 44))
    run = train(recipe(again, {"type": "ebt", "pretrained_path": str(run)}), tmp_path / "run_2")
    assert config_of(run)["input_features"][LEFT]["shape"] == [3, 40, 44]


def test_smaller_pictures_are_refused_with_what_to_record(pretrained, tmp_path):
    data = filmed(tmp_path / "data", ("left", "wrist"), size=(24, 32))
    with pytest.raises(UserError, match=r"the dataset has \(3, 24, 32\)\. Record pictures of at least"):
        train(recipe(data, {"type": "ebt", "pretrained_path": str(pretrained)}), tmp_path / "run")


@pytest.mark.parametrize(
    ("policy", "data", "message"),
    [
        ({"pretrained_path": "no/such/run"}, {}, r"policy\.pretrained_path: .*no/such/run"),
        ({"type": "diffusion"}, {}, "is a policy of type 'ebt', the recipe's is 'diffusion'"),
        ({"width": 48}, {}, "weights do not fit the recipe, which changes width 24 -> 48"),
        (
            {},
            {"rename_map": {"observation.images.lft": STATE}},
            "has no 'observation.images.lft'. Did you mean",
        ),
        ({"pretrained_path": None}, {"rename_map": {STATE: STATE}}, "rename_map is for fine-tuning"),
    ],
)
def test_mistakes_are_named(pretrained, tmp_path, policy, data, message):
    source = ("tests/filmed", pretrained.parent / "data")
    with pytest.raises(UserError, match=message):
        train(
            recipe(source, {"type": "ebt", "pretrained_path": str(pretrained)} | policy, **data),
            tmp_path / "run",
        )


def test_another_number_of_joints_is_refused(pretrained, tmp_path):
    data = filmed(tmp_path / "data", ("left", "wrist"), joints=3)
    with pytest.raises(UserError, match=r"the checkpoint has the shape \(2,\), the dataset \(3,\)"):
        train(recipe(data, {"type": "ebt", "pretrained_path": str(pretrained)}), tmp_path / "run")
