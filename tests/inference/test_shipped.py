"""The policies that come with the package: small, without traces of where they were trained; the one that sees pictures acts."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ebt_policy.envs import environment
from ebt_policy.eval.rollout.parallel import run_episodes
from ebt_policy.former_options import FormerOptions
from ebt_policy.inference.checkpoints import find_checkpoint, list_shipped
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise

PIXELS = "shipped:pusht_pixels_ebt"
EASY_SEED = 50_019  # solved after 119 ticks; after 114 with three evaluations


def strings(data: object) -> list[str]:
    """Every text in a JSON value."""
    if isinstance(data, dict | list):
        parts = data.values() if isinstance(data, dict) else data
        return [text for part in parts for text in strings(part)]
    return [data] if isinstance(data, str) else []


@pytest.mark.parametrize("name", list_shipped())
def test_a_shipped_policy_is_small_and_names_no_machine(name: str) -> None:
    folder = find_checkpoint(f"shipped:{name}")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5 * 2**20
    files = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert [t for data in files.values() for t in strings(data) if Path(t).is_absolute() or "cuda" in t] == []
    assert files["config.json"]["device"] == files["train_config.json"]["policy"]["device"] == "cpu"


def test_the_newest_has_no_option_of_earlier_versions() -> None:
    folder, former = find_checkpoint(PIXELS), FormerOptions.__dataclass_fields__.keys()
    config = json.loads((folder / "config.json").read_text())
    assert not former & config.keys()
    assert json.loads((folder / "train_config.json").read_text())["policy"] == config


def test_a_plan_from_pixels_depends_on_the_picture() -> None:
    spec, runner = environment("pusht_pixels"), load_runner(PIXELS)
    seen = [spec.to_policy(spec.make(False).reset(seed=seed)[0]) for seed in (0, 1)]
    state = seen[0]["observation.state"][None, None]
    plans = [
        runner.decide(
            {"observation.image": one["observation.image"][None, None], "observation.state": state},
            Noise.from_seeds([0]),
        ).actions
        for one in seen
    ]
    assert plans[0].shape == (1, 8, 2)
    assert np.abs(plans[0] - plans[1]).max() > 20  # pixels of 512


def test_the_policy_from_pixels_solves_an_episode() -> None:
    (episode,) = run_episodes(
        partial(load_runner, PIXELS), "pusht_pixels", [EASY_SEED], processes=1, show_progress=False
    )
    assert episode.success
