"""Signals along recorded episodes."""

from ebt_policy.eval.failures import recorded
from ebt_policy.eval.failures.recorded import recorded_signals
from ebt_policy.inference.runner import load_runner
from ebt_policy.training.train import train


def test_pictures_of_one_episode_at_a_time_are_in_memory(
    two_cameras, tiny_recipe, tmp_path, monkeypatch, capsys
):
    repo_id, root = two_cameras
    recipe = tiny_recipe(
        steps=1, batch_size=2, dataset={"repo_id": repo_id, "root": str(root), "held_out_fraction": 0.0}
    )
    runner = load_runner(train(recipe, tmp_path / "run"))
    monkeypatch.setattr(
        recorded, "EPISODE_GB", 1.5 * 2 * 12 * 24 * 32 * 3 / 1e9
    )  # two cameras, 12 frames: one episode
    monkeypatch.setattr(recorded, "TOLD_EVERY_S", -1.0)
    both = recorded_signals(runner, repo_id, root)
    assert len(both) == 2 and all(len(one) == -(-12 // runner.n_action_steps) for one in both)
    assert recorded_signals(runner, repo_id, root, [1]) == [both[1]]
    assert "2 of 2 recorded episodes" in capsys.readouterr().out
