"""Maps of a frozen backbone on disk: equal to what the encoder computes when it acts, never outdated, resumable."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from lerobot.configs.types import FeatureType, PolicyFeature

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.data import camera_frames, feature_maps
from ebt_policy.data.feature_maps import Maps
from ebt_policy.data.frame_cache import cache_folder
from ebt_policy.data.symmetry import PIXEL_MAPS, AffineMap, Symmetry
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError
from ebt_policy.model import vision_frozen
from ebt_policy.model.augmentation import View
from ebt_policy.model.encoders import CameraEncoder
from ebt_policy.model.vision_frozen import FrozenBackbone
from ebt_policy.training.recipe import decode_recipe
from ebt_policy.training.train import train

CAMERA, STATE, ACTION = "observation.images.top", "observation.state", "action"
OPTIONS = {
    "features": [CAMERA, STATE, ACTION],
    "observation_delta_indices": [-1, 0],
    "action_delta_indices": list(range(4)),
}
MIRROR = Symmetry({STATE: AffineMap((1, 0)), ACTION: AffineMap((1, 0))}, pixels="horizontal")
SIZE = (24, 32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBT_POLICY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def maps() -> Maps:
    torch.manual_seed(0)
    return Maps(FrozenBackbone("mobilenet_v2", pretrained=False), "mobilenet_v2", View())


def cached(dataset: tuple[str, Path], maps: Maps, **options) -> Windows:
    return Windows.from_lerobot(*dataset, **OPTIONS | options, maps=maps)


def kept() -> set[Path]:
    return set(cache_folder().rglob("*.f16"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the versions that are computed, without those of the check at opening."""
    versions: list[int] = []
    compute = Maps.compute

    def counting(self: Maps, pictures, version, generator):
        versions.append(version.number)
        return compute(self, pictures, version, generator)

    monkeypatch.setattr(Maps, "compute", counting)
    monkeypatch.setattr(feature_maps, "_check", lambda *arguments: None)
    return versions


@pytest.mark.parametrize("view", [View(), View((18, 20)), View((20, 24), (16, 20))])
def test_a_policy_acts_on_the_maps_that_it_was_trained_on(camera_dataset, maps: Maps, view: View) -> None:
    """The encoder's context of the cached maps of the version "none" is that of the picture when acting."""
    config = EBTConfig(
        vision="frozen",
        resize_shape=view.resize,
        crop_shape=view.crop,
        device="cpu",
        width=16,
        attention_heads=2,
    )
    config.pretrained_backbone_weights = None
    encoder = CameraEncoder(config, 3).eval()
    windows = cached(camera_dataset, dataclasses.replace(maps, backbone=encoder.trunk, view=view))
    pictures = Windows.from_lerobot(*camera_dataset, **OPTIONS)
    rows = torch.arange(len(pictures))
    stored, seen = windows.batch(rows), pictures.batch(rows)
    assert stored[CAMERA].dtype == torch.float16
    contexts = [encoder(batch[CAMERA].flatten(0, 1), SIZE)[0] for batch in (stored, seen)]
    torch.testing.assert_close(contexts[0], contexts[1], atol=0.02 * contexts[1].abs().max().item(), rtol=0)
    for name in seen.keys() - {CAMERA}:
        assert torch.equal(stored[name], seen[name]), name


def test_mirrored_samples_have_the_maps_of_mirrored_pictures(camera_dataset, maps: Maps) -> None:
    windows = cached(camera_dataset, maps, symmetry=MIRROR)
    pictures = Windows.from_lerobot(*camera_dataset, **OPTIONS)
    n = len(pictures)
    expected = PIXEL_MAPS["horizontal"](pictures.batch(torch.arange(n))[CAMERA].flatten(0, 1))
    found = windows.batch(torch.arange(n, 2 * n))[CAMERA].flatten(0, 1).float()
    torch.testing.assert_close(found, maps.backbone.packed(expected), atol=1e-2, rtol=1e-2)


def test_training_draws_every_version_and_one_for_all_steps_of_a_sample(camera_dataset, maps: Maps) -> None:
    shifted = dataclasses.replace(maps, view=View(shift=3, colour=0.3), variants=3)
    windows, plain = cached(camera_dataset, shifted), cached(camera_dataset, maps)
    rows = torch.zeros(40, dtype=torch.int64)  # the first frame: both steps show the same picture
    drawn = windows.batch(rows)[CAMERA].flatten(2)
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    versions = drawn[:, 0].unique(dim=0)
    assert len(versions) == 3
    assert (versions == plain.batch(rows[:1])[CAMERA].flatten(2)[:, 0]).all(1).any()


def test_each_version_is_computed_once_for_all_parts_of_the_data(
    camera_dataset, maps: Maps, computed
) -> None:
    cached(camera_dataset, maps, episodes=[1])
    assert computed == [0]
    cached(camera_dataset, dataclasses.replace(maps, view=View(shift=2), variants=2))
    assert sorted(computed[1:]) == [0, 1, 1]  # of episode 1 the plain version was there
    computed.clear()
    cached(camera_dataset, dataclasses.replace(maps, view=View(shift=2), variants=2))
    assert computed == []


def test_an_augmented_version_is_the_same_wherever_it_is_computed(
    camera_dataset, maps: Maps, tmp_path: Path, monkeypatch
) -> None:
    wanted = dataclasses.replace(maps, view=View(shift=2, colour=0.2), variants=2)
    cached(camera_dataset, wanted)
    first = {path.name: path.read_bytes() for path in kept()}
    monkeypatch.setenv("EBT_POLICY_CACHE", str(tmp_path / "other"))
    cached(camera_dataset, wanted, episodes=[1])
    cached(camera_dataset, wanted)
    assert {path.name: path.read_bytes() for path in kept()} == first


def test_what_was_interrupted_goes_on_where_it_stopped(
    camera_dataset, maps: Maps, computed, monkeypatch
) -> None:
    work = camera_frames.CameraDecoder.blocks

    def fails(self, episode: int, start: int, stop: int):
        yield from work(self, episode, start, stop)
        if episode == 1:  # in the middle of the files
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(camera_frames.CameraDecoder, "blocks", fails)
        cached(camera_dataset, maps)
    assert len(kept()) == 1 and not list(cache_folder().rglob("*.tmp"))
    computed.clear()
    cached(camera_dataset, maps)
    assert computed == [0]


@pytest.mark.parametrize("change", ["pictures", "weights", "view"])
def test_maps_are_never_those_of_something_else(
    make_camera_dataset: Callable, maps: Maps, change: str, tmp_path: Path
) -> None:
    dataset = make_camera_dataset(tmp_path / "one", "image", 1)
    cached(dataset, maps)
    before = kept()
    if change == "pictures":
        dataset = make_camera_dataset(tmp_path / "two", "image", 2)
    elif change == "weights":
        maps = dataclasses.replace(maps, backbone=FrozenBackbone("mobilenet_v2", pretrained=False))
    else:
        maps = dataclasses.replace(maps, view=View((18, 20)))
    cached(dataset, maps)
    assert len(kept() - before) == len(before) == 2


def test_a_damaged_file_is_noticed_on_opening(camera_dataset, maps: Maps) -> None:
    cached(camera_dataset, maps)
    for path in kept():
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="ebt-policy cache --clear"):
        cached(camera_dataset, maps)


def test_a_policy_learns_from_cached_maps_and_acts_on_pictures(
    camera_dataset, maps: Maps, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ebt_policy.modeling_ebt import EBTPolicy

    weights = torchvision.models.mobilenet_v2().state_dict()
    monkeypatch.setattr(vision_frozen, "pretrained_weights", lambda name: weights)

    config = EBTConfig(
        input_features={
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, *SIZE)),
            STATE: PolicyFeature(FeatureType.STATE, (2,)),
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (2,))},
        vision="frozen", device="cpu", n_obs_steps=2, horizon=4, n_action_steps=2,
        width=16, layers=1, attention_heads=2,
    )  # fmt: skip
    policy = EBTPolicy(config, trained=True)
    windows = cached(camera_dataset, maps)
    loss, _ = policy.train()(windows.batch(torch.arange(4)))
    loss.backward()
    assert torch.isfinite(loss)
    pictures = Windows.from_lerobot(*camera_dataset, **OPTIONS).batch(torch.arange(2))
    assert policy.eval().decide(pictures).chunk.shape == (2, 4, 2)


def no_picture_in_training(
    view: View, images: torch.Tensor, *, random: bool, generator: torch.Generator | None = None
):
    assert generator is not None  # as when maps are computed
    return images


def test_training_and_fine_tuning_read_maps_alone(camera_dataset, tmp_path: Path, monkeypatch) -> None:
    weights = torchvision.models.mobilenet_v2().state_dict()
    monkeypatch.setattr(vision_frozen, "pretrained_weights", lambda name: weights)
    monkeypatch.setattr(View, "__call__", no_picture_in_training)
    recipe = decode_recipe(
        {
            "policy": {
                "type": "ebt", "vision": "frozen", "horizon": 4, "n_action_steps": 2, "width": 16, "layers": 1,
                "attention_heads": 2,
            },
            "dataset": {"repo_id": camera_dataset[0], "root": str(camera_dataset[1]), "feature_variants": 2,
                        "held_out_fraction": 0.5},
            "steps": 2, "batch_size": 4, "device": "cpu",
        }
    )  # fmt: skip
    run = train(recipe, tmp_path / "run")
    before = len(kept())
    assert before == 3  # two versions of the training episode, one of the held-out one
    policy = recipe.policy | {"pretrained_path": str(run)}
    monkeypatch.setattr(
        vision_frozen, "pretrained_weights", lambda name: pytest.fail("the checkpoint has them")
    )
    train(dataclasses.replace(recipe, policy=policy), tmp_path / "fine_tuned")
    assert len(kept()) == before
