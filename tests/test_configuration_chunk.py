"""What is refused of resize_shape and crop_shape, in words that say what to set instead."""

import json
import re
from pathlib import Path

import pytest
import torch
from core_fixtures import make_batch, make_policy
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature

from ebt_policy import EBTConfig
from ebt_policy.errors import UserError
from ebt_policy.inference.checkpoints import find_checkpoint, list_shipped
from ebt_policy.modeling_ebt import EBTPolicy

VGA = {"top": (480, 640)}


def config(cameras: dict[str, tuple[int, int]], **options) -> EBTConfig:
    return EBTConfig(
        input_features={
            f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *size))
            for name, size in cameras.items()
        }
        | {"observation.state": PolicyFeature(FeatureType.STATE, (6,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        device="cpu",
        **options,
    )


@pytest.mark.parametrize(
    ("cameras", "options"),
    [
        (VGA, {}),
        (VGA, {"resize_shape": (240, 320)}),
        (VGA, {"resize_shape": (240, 320), "crop_shape": (216, 288)}),
        (VGA, {"crop_shape": (448, 608)}),
        ({"top": (720, 1280)}, {"resize_shape": (240, 320), "crop_shape": (216, 288)}),  # squeezed
        ({"top": (480, 640), "wrist": (240, 320)}, {"resize_shape": (240, 320), "crop_shape": (216, 288)}),
        ({"image": (96, 96)}, {"crop_shape": (84, 84)}),
        ({}, {"resize_shape": (240, 320), "crop_shape": (84, 84)}),  # no camera, no matter
    ],
)
def test_sensible_shapes_are_accepted(cameras, options) -> None:
    config(cameras, **options).validate_features()


@pytest.mark.parametrize(
    ("cameras", "options", "message"),
    [
        (
            VGA,
            {"crop_shape": (84, 84)},
            r"\(84, 84\) keeps 2\.3% of camera 'observation\.images\.top' \(480 x 640\).*"
            r"resize_shape \(240, 320\) and crop_shape \(216, 288\)",
        ),
        (
            VGA,
            {"resize_shape": (240, 320), "crop_shape": (84, 84)},
            r"9\.2% of .*resized to 240 x 320",
        ),
        (VGA, {"resize_shape": (240, 320), "crop_shape": (300, 300)}, r"larger than .*resized to 240 x 320"),
        (VGA, {"crop_shape": (500, 600)}, r"larger than camera .*\(480 x 640\)\. Set, for example"),
        (
            {"top": (48, 64)},
            {"resize_shape": (240, 320), "crop_shape": (216, 288)},
            r"larger than camera .*\(48 x 64\): enlarging.*resize_shape \(48, 64\) and crop_shape \(43, 58\)",
        ),
        (
            {"top": (480, 640), "wrist": (224, 224)},
            {"resize_shape": (240, 320)},
            r"'observation\.images\.wrist'.*resize_shape \(224, 224\) and crop_shape \(202, 202\)",
        ),
    ],
)
def test_mistakes_name_the_camera_and_a_cure_that_works(cameras, options, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        config(cameras, **options).validate_features()
    cure = re.search(r"resize_shape \((\d+), (\d+)\) and crop_shape \((\d+), (\d+)\)", str(error.value))
    assert cure is not None
    numbers = [int(number) for number in cure.groups()]
    config(cameras, resize_shape=numbers[:2], crop_shape=numbers[2:]).validate_features()


@pytest.mark.parametrize("shape", [(240,), (240, 320, 3), (0, 320), (-1, 5)])
@pytest.mark.parametrize("name", ["resize_shape", "crop_shape"])
def test_a_shape_is_height_and_width(name, shape) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be \(height, width\)"):
        config(VGA, **{name: shape})


def test_a_policy_that_was_trained_on_a_small_crop_loads_and_acts_as_before(tmp_path: Path) -> None:
    """As saved before there was a resize_shape: 14 % of its picture, which a new training would refuse."""
    features = ("observation.state", "observation.images.top")
    whole = make_policy("ebt", features, crop_shape=None)
    whole.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["resize_shape"]
    (tmp_path / "config.json").write_text(json.dumps(stored | {"crop_shape": [16, 16]}))
    with pytest.raises(ValueError, match="keeps 13"):
        make_policy("ebt", features, crop_shape=(16, 16))

    policy = EBTPolicy.from_pretrained(tmp_path)
    assert policy.config.resize_shape is None and policy.config.crop_shape == (16, 16)
    batch = make_batch(2, features)
    cut = batch | {features[1]: batch[features[1]][..., 12:28, 16:32]}
    contexts = [p.model.encoder({k: b[k] for k in features}) for p, b in ((policy, batch), (whole, cut))]
    torch.testing.assert_close(contexts[0], contexts[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", list_shipped())
def test_shipped_policies_load(name: str) -> None:
    from lerobot.configs.policies import PreTrainedConfig

    folder = find_checkpoint(f"shipped:{name}")
    found, saved = PreTrainedConfig.from_pretrained(folder), json.loads((folder / "config.json").read_text())
    assert found.resize_shape is None and found.crop_shape == (tuple(saved["crop_shape"] or ()) or None)
    found.validate_features(trained=True)


def test_normalisation_that_is_not_mentioned_stays_the_default() -> None:
    changed = config({}, normalization_mapping={"ACTION": NormalizationMode.QUANTILES}).normalization_mapping
    assert changed == config({}).normalization_mapping | {"ACTION": NormalizationMode.QUANTILES}
    assert changed["STATE"] == changed["ENV"] == NormalizationMode.MIN_MAX
    with pytest.raises(ValueError, match="'STAET'.*STATE"):
        config({}, normalization_mapping={"STAET": NormalizationMode.MIN_MAX})


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("observation.state", FeatureType.STATE, (4, 4)),
        ("observation.environment_state", FeatureType.ENV, (2, 3, 4)),
        ("observation.images.depth", FeatureType.VISUAL, (48, 64)),
        ("action", FeatureType.ACTION, (2, 3)),
    ],
)
def test_shapes_that_the_networks_cannot_take_are_refused(name: str, kind: FeatureType, shape: tuple) -> None:
    made = config({})
    features = made.output_features if name == "action" else made.input_features
    features[name] = PolicyFeature(kind, shape)
    with pytest.raises(ValueError, match=f"'{name}' has shape {re.escape(str(shape))}; expected a"):
        made.validate_features()


@pytest.mark.parametrize(("separate", "message"), [(False, "set separate_encoder_per_camera"), (True, None)])
def test_one_encoder_for_cameras_of_different_channels_is_refused(
    separate: bool, message: str | None
) -> None:
    mixed = config({"top": (48, 64), "depth": (48, 64)}, separate_encoder_per_camera=separate)
    mixed.input_features["observation.images.depth"] = PolicyFeature(FeatureType.VISUAL, (1, 48, 64))
    if message is None:
        mixed.validate_features()
        return
    with pytest.raises(ValueError, match=rf"depth \(1\), .*top \(3\).*{message}"):
        mixed.validate_features()


def test_another_environment_is_named_with_the_features_of_both_sides(tmp_path: Path) -> None:
    make_policy().save_pretrained(tmp_path)
    other = EBTConfig.from_pretrained(tmp_path)
    other.output_features = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    with pytest.raises(
        UserError, match=r"checkpoint has the output features action \(2,\); here they are action \(7,\)"
    ):
        EBTPolicy.from_pretrained(tmp_path, config=other)
    other = EBTConfig.from_pretrained(tmp_path)
    other.input_features = {"observation.state": PolicyFeature(FeatureType.STATE, (3,))}
    with pytest.raises(
        UserError,
        match=r"environment_state \(16,\), observation.state \(2,\); here they are observation.state \(3,\)",
    ):
        EBTPolicy.from_pretrained(tmp_path, config=other)
