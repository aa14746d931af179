import json
import shutil

import numpy as np
import pytest
import torch
from core_fixtures import LOW_DIM, make_batch, make_policy
from safetensors.torch import load_file, save_file

from ebt_policy.errors import UserError
from ebt_policy.inference import checkpoints
from ebt_policy.inference import runner as runners
from ebt_policy.inference.checkpoints import find_checkpoint, list_shipped
from ebt_policy.inference.runner import Runner, load_runner
from ebt_policy.model.noise import Noise

ALL = ["ebt", "matched_baseline", "diffusion", "act"]


def observations(batch: int, steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "observation.state": rng.uniform(0, 512, (batch, steps, 2)).astype(np.float32),
        "observation.environment_state": rng.uniform(0, 512, (batch, steps, 16)).astype(np.float32),
    }


def damaged(folder, tmp_path, change) -> str:
    """A copy of a checkpoint whose tensors went through `change`."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    save_file(change(load_file(copy / "model.safetensors")), copy / "model.safetensors")
    return str(copy)


@pytest.mark.parametrize("kind", ALL)
def test_a_decision_has_actions_in_the_envs_units_and_a_trace(kind, checkpoint):
    runner = load_runner(checkpoint(kind))
    decision = runner.decide(observations(3, runner.n_obs_steps), Noise.from_seeds(range(3)))
    assert decision.actions.shape == (3, 8, 2) and decision.actions.dtype == np.float32
    assert decision.chunk.shape[0] == 3 and decision.chunk.shape[1] >= 8
    np.testing.assert_allclose(
        decision.actions, (decision.chunk[:, :8] + 1) * 256, atol=1e-2
    )  # MIN_MAX of 0 to 512
    assert (
        decision.trace.batch_size == 3
        and (decision.trace.evaluations >= 1).all()
        and decision.trace.seconds > 0
    )
    assert json.loads(json.dumps(runner.describe()))["type"] == kind


@pytest.mark.parametrize("kind", ALL)
def test_the_same_noise_gives_the_same_actions_whatever_the_global_generator(kind, checkpoint):
    runner = load_runner(checkpoint(kind))
    seen = observations(2, runner.n_obs_steps)
    first = runner.decide(seen, Noise.from_seeds([1, 2]))
    torch.randn(100)
    again = runner.decide(seen, Noise.from_seeds([1, 2]))
    np.testing.assert_array_equal(first.actions, again.actions)


def test_lerobots_diffusion_acts_as_in_lerobot(checkpoint):
    runner = load_runner(checkpoint("diffusion"), overrides={"sampler": "ddim:4"})
    seen = observations(2, runner.n_obs_steps)
    ours = runner.decide(seen, Noise.from_seeds([1, 2]))
    batch = runner.preprocessor({name: torch.from_numpy(value) for name, value in seen.items()})
    batch = {name: batch[name] for name in seen}
    theirs = runner.policy.predict_action_chunk(batch, noise=Noise.from_seeds([1, 2]).normal((16, 2)))
    np.testing.assert_allclose(ours.chunk[:, :8], theirs.numpy(), atol=1e-5)
    assert ours.chunk.shape == (2, 15, 2)  # the plan begins one tick ago
    assert (ours.trace.evaluations == 4).all()


@pytest.mark.parametrize(
    ("kind", "sampler", "evaluations"), [("diffusion", "ddpm:100", 100), ("matched_baseline", "ddim:10", 10)]
)
def test_the_sampler_of_a_diffusion_policy_can_be_chosen(kind, sampler, evaluations, checkpoint):
    runner = load_runner(checkpoint(kind), overrides={"sampler": sampler})
    decision = runner.decide(observations(1, runner.n_obs_steps), Noise.from_seeds([0]))
    assert decision.trace.evaluations[0] == evaluations


@pytest.mark.parametrize("kind", ["ebt", "matched_baseline", "diffusion"])
def test_a_budget_of_evaluations_is_kept(kind, checkpoint):
    runner = load_runner(checkpoint(kind), max_evaluations=2)
    decision = runner.decide(observations(2, runner.n_obs_steps), Noise.from_seeds([0, 1]))
    assert (decision.trace.evaluations <= 2).all()


def test_policies_without_an_adapter_draw_for_each_row_from_its_own_noise(checkpoint):
    policy = load_runner(checkpoint("diffusion")).policy
    rng = np.random.default_rng(0)
    batch = {
        "observation.state": torch.from_numpy(rng.normal(size=(3, 2, 2))).float(),
        "observation.environment_state": torch.from_numpy(rng.normal(size=(3, 2, 16))).float(),
    }
    together = runners._any_chunk(policy, batch, Noise.from_seeds([5, 6, 7]))
    torch.rand(3)
    alone = runners._any_chunk(policy, {k: v[1:2] for k, v in batch.items()}, Noise.from_seeds([6]))
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0)


def test_fewer_actions_can_be_executed_than_trained(checkpoint):
    runner = load_runner(checkpoint("ebt"), n_action_steps=3)
    assert runner.decide(observations(1, runner.n_obs_steps), Noise.from_seeds([0])).actions.shape == (
        1,
        3,
        2,
    )
    with pytest.raises(UserError, match="n_action_steps"):
        load_runner(checkpoint("ebt"), n_action_steps=99)
    whole = load_runner(checkpoint("diffusion"), n_action_steps=16)
    with pytest.raises(UserError, match="plans 15 ticks ahead"):
        whole.decide(observations(1, whole.n_obs_steps), Noise.from_seeds([0]))


def test_a_run_a_checkpoint_and_a_model_folder_mean_the_same(checkpoint, tmp_path):
    model = tmp_path / "run" / "checkpoints" / "000010" / "pretrained_model"
    shutil.copytree(checkpoint("ebt"), model)
    (tmp_path / "run" / "checkpoints" / "last").symlink_to("000010")
    runners = [load_runner(path) for path in (model, model.parent, tmp_path / "run")]
    assert (
        len({runner.checkpoint_sha256 for runner in runners}) == 1 and len(runners[0].checkpoint_sha256) == 64
    )


def test_a_wrong_place_says_what_is_wrong(checkpoint, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    shutil.copytree(checkpoint("ebt"), tmp_path / "copy")
    (tmp_path / "copy" / "policy_preprocessor.json").unlink()
    with pytest.raises(UserError, match="policy_preprocessor.json is missing"):
        find_checkpoint(tmp_path / "copy")


def test_an_unknown_shipped_name_lists_those_that_exist(monkeypatch, checkpoint):
    monkeypatch.setattr(checkpoints, "_shipped_folder", lambda: checkpoint("ebt").parent)
    assert list_shipped() == ["ebt"]
    assert find_checkpoint("shipped:ebt") == checkpoint("ebt")
    with pytest.raises(UserError, match="No checkpoint called 'abt'.*Shipped: ebt"):
        find_checkpoint("shipped:abt")


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
def test_a_missing_or_an_extra_tensor_is_an_error(kind, checkpoint, tmp_path):
    def without_first(tensors):
        return dict(list(tensors.items())[1:])

    with pytest.raises(UserError, match=r"(?i)missing"):
        load_runner(damaged(checkpoint(kind), tmp_path / "a", without_first))
    with pytest.raises(UserError, match="surplus"):
        load_runner(
            damaged(checkpoint(kind), tmp_path / "b", lambda tensors: tensors | {"surplus": torch.ones(1)})
        )


@pytest.mark.parametrize("kind", ["act", "ebt", "matched_baseline"])
def test_damaged_weights_never_give_an_action(kind, checkpoint, tmp_path):
    def broken(tensors):
        return {
            name: torch.full_like(t, torch.nan) if t.is_floating_point() else t for name, t in tensors.items()
        }

    runner = load_runner(damaged(checkpoint(kind), tmp_path, broken))
    with pytest.raises(UserError, match="not a finite number"):
        runner.decide(observations(1, runner.n_obs_steps), Noise.from_seeds([0]))


def test_actions_and_chunk_of_a_decision_are_not_the_same_memory():
    """Whoever holds an arm overwrites the actions and drops the plan; without a normaliser both were one array."""
    policy = make_policy(n_obs_steps=1)
    runner = Runner(policy, lambda batch: batch, lambda chunk: chunk)
    decision = runner.decide(
        {k: v.numpy()[:, :1] for k, v in make_batch(2, LOW_DIM).items() if k in LOW_DIM},
        Noise.from_seeds([0, 1]),
    )
    decision.chunk[0] = np.nan
    assert np.isfinite(decision.actions).all()


def test_observations_that_the_policy_does_not_know_are_named(checkpoint):
    runner = load_runner(checkpoint("ebt"))
    seen = observations(1, runner.n_obs_steps)
    with pytest.raises(
        UserError,
        match=r"not give 'observation\.environment_state'.*gives observation\.state \(2,\); the policy.*state \(16,\)",
    ):
        runner.decide({"observation.state": seen["observation.state"]}, Noise.from_seeds([0]))
    wrong = seen | {"observation.environment_state": seen["observation.environment_state"][..., :5]}
    with pytest.raises(UserError, match=r"of shape \(5,\); the policy expects \(16,\)"):
        runner.decide(wrong, Noise.from_seeds([0]))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_observation_that_is_not_finite_is_named_and_nothing_is_decided(kind, value, checkpoint):
    runner = load_runner(checkpoint(kind))
    seen = observations(3, runner.n_obs_steps)
    seen["observation.environment_state"][1, -1, 5] = value
    with pytest.raises(
        UserError, match=r"'observation\.environment_state' holds NaN or infinity \(rows \[1\] of 3\)"
    ):
        runner.decide(seen, Noise.from_seeds(range(3)))


def test_temporal_ensembling_is_refused_rather_than_ignored(checkpoint):
    with pytest.raises(UserError, match="lerobot-eval --policy.temporal_ensemble_coeff"):
        load_runner(checkpoint("act"), n_action_steps=1, overrides={"temporal_ensemble_coeff": 0.01})


def test_options_are_checked_in_the_users_terms(checkpoint):
    with pytest.raises(UserError, match="no option 'max_evaluation'.*max_evaluations"):
        load_runner(checkpoint("ebt"), overrides={"max_evaluation": 3})
    with pytest.raises(UserError, match="max_evaluations must be at least 1, found 0"):
        load_runner(checkpoint("matched_baseline"), max_evaluations=0)
    with pytest.raises(UserError, match="expected for example 'ddpm:100'"):
        load_runner(checkpoint("diffusion"), overrides={"sampler": "euler:7"})
    assert load_runner(checkpoint("ebt"), overrides={"max_evaluations": 1}).config.max_evaluations == 1
