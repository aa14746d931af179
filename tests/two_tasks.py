"""A dataset of two tasks that differ by their sentences alone, and a recipe for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.training.recipe import TrainRecipe, decode_recipe

LEFT, RIGHT = "Move the block to the left", "Lift the red cup"
FRAMES = 12


def make_dataset(root: Path, sentences: Sequence[str], done: Sequence[str] = ()) -> None:
    """One episode for each entry. The same states in all of them; the action is -1 under LEFT, else 1. done: what is done, where
    it is not what the sentence says; such episodes differ from those without it."""
    vector = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    features = {"observation.state": vector, "action": vector}
    dataset = LeRobotDataset.create("tests/two_tasks", fps=10, root=root, features=features)
    for episode, sentence in enumerate(sentences):
        rng = np.random.default_rng(episode // 2 + 100 * bool(done))
        for _ in range(FRAMES):
            left = (done or sentences)[episode] == LEFT
            action = np.full(2, -1.0 if left else 1.0, np.float32) + 0.01 * rng.normal(size=2)
            state = rng.normal(size=2).astype(np.float32)
            dataset.add_frame(
                {"observation.state": state, "action": action.astype(np.float32), "task": sentence}
            )
        dataset.save_episode()
    dataset.finalize()


def recipe_for(root: Path, **policy: object) -> TrainRecipe:
    options = {
        "type": "ebt",
        "width": 16,
        "layers": 1,
        "attention_heads": 2,
        "horizon": 4,
        "n_action_steps": 2,
    }
    return decode_recipe(
        {
            "policy": options | {"actions_per_token": 2} | policy,
            "dataset": {"repo_id": "tests/two_tasks", "root": str(root), "held_out_fraction": 0.0},
            "steps": 250,
            "warmup_steps": 10,
            "batch_size": 32,
            "optimizer": {"lr": 5e-3},
            "ema_decay": 0.9,
            "device": "cpu",
            "precision": "fp32",
            "checkpoint_every": 1000,
        }
    )
