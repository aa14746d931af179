"""Episodes that a policy was trained on are recognised, whatever their dataset is called."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from two_tasks import LEFT, RIGHT, make_dataset, recipe_for

from ebt_policy.data.fingerprints import episode_fingerprints
from ebt_policy.errors import UserError
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.training.train import train
from ebt_policy.training.trained_on import EPISODES, held_out_episodes, training_data, unseen_episodes


@pytest.fixture
def checkpoint_of(tiny_dataset: tuple[str, Path], tmp_path: Path):
    """checkpoint_of(episodes) -> folder with the fingerprints of those episodes, as training leaves them."""

    def make(episodes: list[int]) -> Path:
        marks = episode_fingerprints(*tiny_dataset, episodes)
        (tmp_path / EPISODES).write_text(json.dumps(list(marks.values())))
        return tmp_path

    return make


def test_every_episode_has_a_fingerprint_of_its_own(tiny_dataset: tuple[str, Path]) -> None:
    marks = episode_fingerprints(*tiny_dataset)
    assert list(marks) == [0, 1, 2, 3] and len(set(marks.values())) == 4
    assert episode_fingerprints(*tiny_dataset, [2]) == {2: marks[2]}


def test_a_copy_under_another_name_is_recognised(
    tiny_dataset: tuple[str, Path], checkpoint_of, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_dataset[1], copy)
    assert unseen_episodes(checkpoint_of([0, 3]), "somebody/else", copy) == [1, 2]


def test_the_data_trained_on_is_refused(tiny_dataset: tuple[str, Path], checkpoint_of) -> None:
    with pytest.raises(UserError, match="trained on all 4 episodes of 'tests/tiny_pusht'.*held_out_fraction"):
        unseen_episodes(checkpoint_of([0, 1, 2, 3]), *tiny_dataset)


def test_an_older_checkpoint_goes_by_the_name_of_its_dataset(
    tiny_dataset: tuple[str, Path], tmp_path: Path
) -> None:
    def written(**dataset: object) -> Path:
        (tmp_path / "train_config.json").write_text(json.dumps({"dataset": dataset}))
        return tmp_path

    name = tiny_dataset[0]
    expected = held_out_episodes(4, {"eval_split": 0.25})
    assert len(expected) == 1
    assert unseen_episodes(written(repo_id=name, eval_split=0.25), *tiny_dataset) == expected
    assert unseen_episodes(written(repo_id="another/set"), *tiny_dataset) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="not seen"):
        unseen_episodes(written(repo_id=name), *tiny_dataset)


def test_training_leaves_the_fingerprints_in_its_checkpoints(
    tiny_recipe, tiny_dataset: tuple[str, Path], tmp_path: Path
) -> None:
    run = train(tiny_recipe(steps=2), tmp_path / "run")
    folder = run / "checkpoints" / "last" / "pretrained_model"
    config = json.loads((folder / "train_config.json").read_text())["dataset"]
    assert unseen_episodes(folder, *tiny_dataset) == sorted(held_out_episodes(4, config))


def test_a_checkpoint_names_the_episodes_that_were_chosen_so_that_lerobot_trains_on_no_others(tmp_path):
    make_dataset(tmp_path / "data", [LEFT, LEFT, LEFT, RIGHT, RIGHT])
    recipe = replace(recipe_for(tmp_path / "data"), steps=1)
    two = replace(recipe, dataset=replace(recipe.dataset, episodes_per_task=2))
    assert training_data(find_checkpoint(train(two, tmp_path / "two")))["episodes"] == [0, 1, 3, 4]
    assert training_data(find_checkpoint(train(recipe, tmp_path / "all")))["episodes"] is None
