"""A saved recipe re-creates its run; a mistake in a recipe is named with its remedy."""

import pytest
import yaml
from lerobot.configs.types import NormalizationMode

from ebt_policy.errors import UserError
from ebt_policy.training.policy_setup import policy_config, settled_vision
from ebt_policy.training.recipe import decode_recipe, dump_recipe, load_recipe, recipe_names

MINIMAL = {"policy": {"type": "ebt"}, "dataset": {"repo_id": "a/b"}}


@pytest.mark.parametrize(
    "name", ["pusht_keypoints", "pusht_pixels", "robosuite", "aloha", "adroit_door", "aloha_sim_hub"]
)
def test_shipped_recipes_describe_registered_policies(name):
    assert name in recipe_names()
    config = policy_config(load_recipe(name), "cpu")
    assert config.type == "ebt" and not config.push_to_hub


def test_a_dataset_can_be_given_by_its_folder_alone(tmp_path):
    data = {"policy": {"type": "ebt"}, "dataset": {"root": str(tmp_path / "my_arm")}}
    assert decode_recipe(data).dataset.repo_id == "local/my_arm"
    with pytest.raises(UserError, match=r"dataset\.root=FOLDER"):
        decode_recipe({"policy": {"type": "ebt"}, "dataset": {}})


def test_written_recipe_reads_back_equal(tmp_path):
    recipe = load_recipe("pusht_keypoints", {"dataset.episodes": [0, 3], "policy.width": 64, "device": "cpu"})
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("symmetry", [None, "pusht", {"features": {"action": {"permutation": [1, 0]}}}])
def test_symmetry_is_a_name_or_a_mapping(symmetry, tmp_path):
    recipe = load_recipe("pusht_keypoints", {"dataset.symmetry": symmetry})
    assert recipe.dataset.symmetry == symmetry
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe


def test_overrides_reach_every_branch_and_read_strings_as_yaml():
    recipe = load_recipe(
        "pusht_keypoints",
        {"optimizer.lr": "1e-4", "steps": "7", "dataset.symmetry": "null", "policy.width": 64},
    )
    assert recipe.optimizer.lr == 1e-4 and recipe.steps == 7
    assert recipe.dataset.symmetry is None and recipe.policy["width"] == 64
    replaced = load_recipe("pusht_keypoints", {"policy": {"type": "diffusion"}})
    assert replaced.policy == {"type": "diffusion"}


def test_another_policy_keeps_what_it_shares_with_the_recipes():
    recipe = load_recipe(
        "pusht_keypoints",
        {"policy.method": "flow", "policy.type": "matched_baseline", "policy.width": "64"},
    )
    assert recipe.policy == {"type": "matched_baseline", "method": "flow", "width": 64, "n_obs_steps": 1}
    assert policy_config(recipe, "cpu").n_obs_steps == 1


def test_my_robot_looks_at_cameras_as_documented():
    recipe = load_recipe("my_robot", {"dataset.repo_id": "me/my_arm"})
    config = policy_config(recipe, "cpu")
    assert (config.resize_shape, config.crop_shape) == ((240, 320), (216, 288))
    lerobots = {"dataset.repo_id": "me/my_arm", "policy.type": "diffusion"}
    config = policy_config(load_recipe("my_robot", lerobots), "cpu")
    assert tuple(config.resize_shape) == (240, 320) and config.crop_shape == (216, 288), (
        "LeRobot's is matched"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 1}, "Did you mean 'steps'"),
        ({"optimizer": {"lrr": 1}}, "unknown key 'optimizer.lrr'. Did you mean 'lr'"),
        ({"optimizer": 3}, "'optimizer' must be a mapping"),
        ({"steps": 1.5}, "steps"),
        ({"steps": 0}, "steps must be a positive number, found 0"),
        ({"precision": "fp16"}, "bf16, fp32"),
        ({"policy": {"width": 3}}, "policy must be a mapping with a 'type'"),
        ({"dataset": {"repo_id": "a/b", "held_out_fraction": 1.0}}, "held_out_fraction"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        decode_recipe(MINIMAL | change)


def test_missing_branch_is_named():
    with pytest.raises(UserError, match="'dataset' is missing"):
        decode_recipe({"policy": {"type": "ebt"}})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pusht_keypoint", "Did you mean 'pusht_keypoints'"),
        ("nothing/like.yaml", "no recipe file 'nothing/like.yaml'"),
    ],
)
def test_unknown_recipe_is_refused_with_close_matches(name, message):
    with pytest.raises(UserError, match=message):
        load_recipe(name)


def test_one_normalisation_mode_leaves_the_others_as_they_were():
    """An entry that is not listed would not be normalised at all."""
    default = policy_config(decode_recipe(MINIMAL), "cpu").normalization_mapping
    given = {"policy.normalization_mapping.ACTION": "QUANTILES", "policy.vision": "resnet18"}
    given |= {"dataset.repo_id": "a/b"}
    changed = policy_config(load_recipe("my_robot", given), "cpu").normalization_mapping
    assert changed == default | {"ACTION": NormalizationMode.QUANTILES} != default
    whole = MINIMAL | {"policy": {"type": "ebt", "normalization_mapping": {"STATE": "MEAN_STD"}}}
    changed = policy_config(decode_recipe(whole), "cpu").normalization_mapping
    assert changed == default | {"STATE": NormalizationMode.MEAN_STD}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"type": "ebtt"}, "Did you mean 'ebt'"),
        ({"type": "ebt", "widht": 3}, "no option 'widht'. Did you mean 'width'"),
        ({"type": "ebt", "width": "wide"}, "width"),
        ({"type": "ebt", "lerning_rate": 1}, "Did you mean 'optimizer_lr'.*--set optimizer.lr="),
        ({"type": "ebt", "optimizer_lr": 3e-4}, r"set optimizer\.lr instead: --set optimizer\.lr=0\.0003"),
        ({"type": "ebt", "horizon": 15}, "horizon"),
    ],
)
def test_unknown_policy_fields_are_refused(policy, message):
    with pytest.raises(UserError, match=message):
        policy_config(decode_recipe(yaml.safe_load(yaml.safe_dump(MINIMAL | {"policy": policy}))), "cpu")


@pytest.mark.parametrize(
    ("given", "device", "vision"),
    [({}, "cpu", "frozen"), ({}, "cuda", "resnet18"), ({"policy.vision": "small"}, "cpu", "small")],
)
def test_my_robot_chooses_the_camera_encoder_by_the_device_unless_told(given, device, vision):
    recipe = load_recipe("my_robot", {"dataset.repo_id": "me/my_arm"} | given)
    assert policy_config(recipe, device).vision == vision


def test_the_encoder_chosen_is_kept_when_a_run_goes_on_elsewhere():
    recipe = load_recipe("my_robot", {"dataset.repo_id": "me/my_arm"})
    started = settled_vision(recipe, "cpu")
    assert settled_vision(recipe, "cuda", started).policy == started.policy
    assert settled_vision(started, "cuda") == started


def test_a_checkpoint_decides_its_own_encoder():
    recipe = load_recipe("my_robot", {"dataset.repo_id": "me/my_arm", "policy.pretrained_path": "runs/x"})
    assert "vision" not in settled_vision(recipe, "cpu").policy
