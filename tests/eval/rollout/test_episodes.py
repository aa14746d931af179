import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode, read_parquet, write_parquet
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.model.trace import Trace


def as_dict(episode: Episode) -> dict:
    unstored = ("frames", "coverages", "disturbance", "decision_ticks", "watch", "traces")
    values = {name: value for name, value in vars(episode).items() if name not in unstored}
    return values | {"traces": [trace.to_dict() for trace in episode.traces]}


def test_rows_and_metadata_survive_storage(stub_runner, tmp_path):
    episodes = rollout(stub_runner, "pusht_keypoints", [1, 2, 3], record=[1])
    metadata = {"config": {"width": 16}, "seeds": [1, 2, 3], "git_hash": None}
    write_parquet(tmp_path / "deeper" / "rows.parquet", episodes, metadata)
    stored, stored_metadata = read_parquet(tmp_path / "deeper" / "rows.parquet")
    assert stored_metadata == metadata
    assert [as_dict(episode) for episode in stored] == [as_dict(episode) for episode in episodes]


def test_an_episode_without_energy_or_success_survives_storage(tmp_path):
    episode = Episode(
        seed=0,
        env="pusht_keypoints",
        success=False,
        max_coverage=0.5,
        final_coverage=0.25,
        ticks=16,
        ticks_to_success=None,
        n_action_steps=8,
        decisions=2,
        evaluations_per_decision=100.0,
        inner_steps=0.0,
        final_energy_mean=float("nan"),
        final_energy_max=float("nan"),
        traces=[Trace.without_steps(1, 100, 0.2), Trace.without_steps(1, 100, 0.1)],
    )
    write_parquet(tmp_path / "rows.parquet", [episode], {})
    (stored,), _ = read_parquet(tmp_path / "rows.parquet")
    assert stored.ticks_to_success is None and np.isnan(stored.final_energy_mean)
    assert [t.seconds for t in stored.traces] == [0.2, 0.1] and stored.traces[0].steps == 0


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="Cannot read episodes"):
        read_parquet(tmp_path / "nothing.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="does not hold episodes"):
        read_parquet(tmp_path / "other.parquet")
