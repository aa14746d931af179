"""LeRobot's image transforms in our own training: what they change, what they leave alone, and what is refused."""

import re
import textwrap
from pathlib import Path

import pytest
import torch
import yaml

from ebt_policy.errors import UserError
from ebt_policy.training.image_transforms import BatchTransforms, batch_transforms
from ebt_policy.training.loop import Loop
from ebt_policy.training.recipe import overridden
from ebt_policy.training.train import train

CAMERA, OTHER = "observation.images.top", "observation.state"


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {CAMERA: torch.rand(3, 2, 3, 8, 8), OTHER: torch.rand(3, 2, 4)}


def test_each_sample_is_changed_in_its_own_way_and_stays_a_picture() -> None:
    before = batch()
    before[CAMERA][:] = before[CAMERA][:1, :1]
    after = BatchTransforms({"enable": True})(before, [CAMERA])
    changed = after[CAMERA] - before[CAMERA]
    assert after[CAMERA].min() >= 0 and after[CAMERA].max() <= 1
    assert not torch.equal(changed[0], changed[1])  # drawn anew for each sample
    torch.testing.assert_close(changed[:, 0], changed[:, 1])  # the same for the frames of a window
    assert after[OTHER] is before[OTHER]


def test_named_transforms_replace_lerobots_list() -> None:
    invert = {"invert": {"type": "RandomInvert", "kwargs": {"p": 1.0}}}
    before = batch()
    after = BatchTransforms({"enable": True, "tfs": invert})(before, [CAMERA])
    torch.testing.assert_close(after[CAMERA], 1 - before[CAMERA])


def test_the_blur_of_the_guide_takes_away_what_is_fine() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "train.md").read_text()
    (example,) = re.findall(r"^    dataset:\n(?:      .*\n)+", guide, re.M)
    options = yaml.safe_load(textwrap.dedent(example))["dataset"]["image_transforms"]
    assert set(options["tfs"]) == {"blur", "colour"}
    before = batch()
    blurred = BatchTransforms(options | {"tfs": {"blur": options["tfs"]["blur"]}})(before, [CAMERA])[CAMERA]
    assert (blurred.diff(dim=-1).abs().mean() < 0.9 * before[CAMERA].diff(dim=-1).abs().mean()).item()
    BatchTransforms(options)  # both are known


@pytest.mark.parametrize(
    "options",
    [{"enabel": True}, {"tfs": {"x": {"type": "NoSuchTransform"}}}, {"max_num_transforms": "many"}],
)
def test_typing_errors_are_named_even_where_transforms_are_off(options: dict) -> None:
    with pytest.raises(UserError, match="dataset.image_transforms"):
        batch_transforms(options, [CAMERA])


def test_without_pictures_they_are_refused() -> None:
    with pytest.raises(UserError, match="feature_variants=0"):
        batch_transforms({"enable": True}, [])
    assert batch_transforms({}, []) is None


def test_training_changes_its_own_pictures_and_not_the_held_out_ones(
    two_cameras: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {
        "policy": {"type": "ebt", "vision": "small", "horizon": 4, "n_action_steps": 2, "width": 16, "layers": 1,
                   "attention_heads": 2, "random_shift": 0},
        "dataset": {"repo_id": two_cameras[0], "root": str(two_cameras[1]), "held_out_fraction": 0.5},
        "steps": 2, "batch_size": 4, "eval_every": 1, "device": "cpu",
    }  # fmt: skip
    recipe = overridden(
        data,
        {
            "dataset.image_transforms.enable": "true",
            "dataset.image_transforms.tfs": "{invert: {type: RandomInvert, kwargs: {p: 1.0}}}",
        },
    )
    seen: list[tuple[bool, bool]] = []
    original = Loop._batch

    def watched(self: Loop, windows, indices):
        raw, got = windows.samples(indices), original(self, windows, indices)
        name = self.cameras[0]
        plain = self.preprocessor(raw)[name]
        seen.append((windows is self.held_out, bool(torch.equal(plain, got[name]))))
        return got

    monkeypatch.setattr(Loop, "_batch", watched)
    train(recipe, tmp_path / "run")
    assert (True, True) in seen and (False, False) in seen
    assert (True, False) not in seen and (False, True) not in seen
