import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.energy_quality import descent_steps, energy_quality
from ebt_policy.model.trace import Trace


def test_descent_steps_are_counted_and_those_that_lowered_the_energy() -> None:
    trace = Trace.without_steps(2, evaluations=4)
    trace.energy = np.array([[5, 7, 4, 3], [2, 2.5, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(descent_steps(trace), [[3, 2], [1, 0]])


def test_a_good_energy_scores_one_and_more_noise_only_helps(
    checkpoint: Callable[[str], Path],
    tiny_dataset: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ebt_policy.modeling_ebt import EBTPolicy

    # An energy that knows the expert: the squared distance from its chunk.
    monkeypatch.setattr(
        EBTPolicy, "energy", lambda self, batch, x: (x - batch["action"]).square().sum((1, 2))
    )
    repo_id, root = tiny_dataset
    found = energy_quality(
        checkpoint("ebt"), repo_id, root, episodes=[0, 2], json_path=tmp_path / "q.json", show=False
    )
    assert found.within_auc == found.within_auc_worst_episode == found.pooled_auc == 1.0
    assert found.expert_energy_median == 0.0
    # 28 and 30 frames, of which the last 15 start a window that leaves the episode.
    assert found.observations == 13 + 15
    assert json.loads((tmp_path / "q.json").read_text())["pooled_auc"] == 1.0


def test_the_figures_are_shares_and_repeat(
    checkpoint: Callable[[str], Path], tiny_dataset: tuple[str, Path]
) -> None:
    repo_id, root = tiny_dataset
    first, second = (
        energy_quality(checkpoint("ebt"), repo_id, root, episodes=[1], noises=3, show=False) for _ in range(2)
    )
    assert first == second
    for name in ("within_auc", "pooled_auc", "descent_fell", "final_step_fell"):
        assert 0 <= getattr(first, name) <= 1


def test_a_policy_without_energy_is_refused(
    checkpoint: Callable[[str], Path], tiny_dataset: tuple[str, Path]
) -> None:
    with pytest.raises(UserError, match="has no energy"):
        energy_quality(checkpoint("matched_baseline"), *tiny_dataset, episodes=[0], show=False)
