"""The policies that come with the package: small, without traces of where they were trained. Those that see pictures or are told
their task act, and depend on them."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.parallel import run_episodes
from ebt_policy.former_options import FormerOptions
from ebt_policy.inference.checkpoints import find_checkpoint, list_shipped
from ebt_policy.inference.runner import load_runner
from ebt_policy.language import encoders
from ebt_policy.model.noise import Noise

PIXELS = "shipped:pusht_pixels_ebt"
TOLD = "shipped:metaworld_mt10_ebt"
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


@pytest.fixture
def no_word_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `language` is not installed."""
    encoders._static.cache_clear()
    find = encoders.importlib.util.find_spec
    monkeypatch.setattr(
        encoders.importlib.util, "find_spec", lambda name: None if name == "wordllama" else find(name)
    )


def test_a_plan_depends_on_the_sentence_and_its_own_ones_need_no_word_vectors(no_word_vectors: None) -> None:
    runner, tasks = load_runner(TOLD), environment("metaworld_mt10").tasks
    assert runner.sentences == list(tasks)
    rng = np.random.default_rng(3)
    seen = {
        "observation.state": rng.uniform(-0.2, 0.6, (1, 1, 4)).astype(np.float32).repeat(10, 0),
        "observation.environment_state": rng.uniform(-0.2, 0.6, (1, 1, 17)).astype(np.float32).repeat(10, 0),
        "task": np.array(tasks),
    }
    plans = runner.decide(seen, Noise.from_seeds([0] * 10)).actions
    assert plans.shape == (10, 8, 4)
    apart = np.abs(plans[:, None] - plans[None]).max((2, 3))
    assert apart[~np.eye(10, dtype=bool)].min() > 0.05  # of -1 to 1


def test_a_sentence_of_ones_own_needs_the_word_vectors(no_word_vectors: None) -> None:
    runner = load_runner(TOLD)
    seen = {
        name: np.zeros((1, 1, size), np.float32) for name, size in (("state", 4), ("environment_state", 17))
    }
    named = {f"observation.{name}": values for name, values in seen.items()}
    with pytest.raises(UserError, match=r"task_encoder=static needs wordllama.*pip install"):
        runner.decide({**named, "task": np.array(["Close that drawer"])}, Noise.from_seeds([0]))


def test_the_policy_of_ten_tasks_solves_an_episode_of_two() -> None:
    pytest.importorskip("metaworld")
    drawers = [50_004, 50_005]  # open one, close one
    played = run_episodes(
        partial(load_runner, TOLD), "metaworld_mt10", drawers, processes=1, show_progress=False
    )
    assert [episode.success for episode in played] == [True, True]
    assert len({episode.task for episode in played}) == 2
