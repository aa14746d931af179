"""Every sampler recovers the data from a perfect denoiser, at every number of steps; every loss of that denoiser is zero.

The oracle knows the chunk a. It answers what training would teach it at the (input, level) that it is given, so a sampler
that passes a wrong level, or moves the input by a wrong amount, does not end at a.
"""

import pytest
import torch
from core_fixtures import Perfect, make_batch, make_policy
from torch import Tensor

from ebt_policy.configuration_matched_baseline import MatchedBaselineConfig
from ebt_policy.model import objectives
from ebt_policy.model.noise import Noise
from ebt_policy.modeling_ebt import EBTPolicy
from ebt_policy.modeling_matched_baseline import TWO_PASS_LEVEL, MatchedBaselinePolicy

STEPS = [1, 2, 3, 7, 20]


def baseline(**options) -> MatchedBaselinePolicy:
    policy = make_policy("matched_baseline", **options)
    assert isinstance(policy, MatchedBaselinePolicy)
    return policy


def diffusion_oracle(policy: MatchedBaselinePolicy, chunk: Tensor):
    """The noise in x: x = sqrt(alpha_t) a + sqrt(1 - alpha_t) eps, where level = t / T."""

    def predict(x: Tensor, context: Tensor, level: Tensor) -> Tensor:
        t = level.double() * policy.config.train_timesteps
        assert torch.allclose(t, t.round(), atol=1e-3)  # training knows whole timesteps only
        alpha = policy.scheduler.alphas_cumprod.double()[t.round().long()][:, None, None]
        return ((x - alpha.sqrt() * chunk) / (1 - alpha).sqrt()).float()

    return predict


def flow_oracle(chunk: Tensor):
    """The velocity a - eps, where x = g a + (1 - g) eps and level = g."""
    return lambda x, context, level: (chunk - x) / (1 - level[:, None, None])


def decide(policy, batch: dict[str, Tensor], steps: int | None = None) -> tuple[Tensor, int]:
    decision = policy.decide(
        batch, noise=Noise.from_seeds(range(len(batch["action"]))), max_evaluations=steps
    )
    assert len(set(decision.trace.evaluations.tolist())) == 1
    return decision.chunk, int(decision.trace.evaluations[0])


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_diffusion_recovers_the_data(
    spacing: str, sampler: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batch = (
        baseline(method="diffusion", sampler=sampler, timestep_spacing=spacing),
        make_batch(3),
    )
    monkeypatch.setattr(policy, "_predict", diffusion_oracle(policy, batch["action"]))
    chunk, evaluations = decide(policy, batch, steps)
    torch.testing.assert_close(chunk, batch["action"], atol=2e-3, rtol=0)
    assert evaluations == steps


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
@pytest.mark.parametrize(("spacing", "first"), [("trailing", True), ("leading", False)])
def test_trailing_starts_at_the_level_of_pure_noise(
    spacing: str, first: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batch = (
        baseline(method="diffusion", sampler="ddim", timestep_spacing=spacing),
        make_batch(2),
    )
    levels: list[float] = []

    def predict(x: Tensor, context: Tensor, level: Tensor) -> Tensor:
        levels.append(round(float(level[0]), 4))
        return torch.zeros_like(x)

    monkeypatch.setattr(policy, "_predict", predict)
    decide(policy, batch, steps)
    assert len(levels) == steps
    assert (levels[0] == 0.99) == (first or steps == 100)  # of the levels 0 to .99 of training
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("method", ["diffusion", "flow"])
def test_a_warm_start_takes_its_steps_from_the_previous_chunk(
    method: str, share: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"method": method, "start": "warm", "warm_start_share": share}
    if method == "diffusion":
        options |= {"sampler": "ddim", "timestep_spacing": "trailing"}
    policy, batch = baseline(**options), make_batch(3)
    chunk = batch["action"]
    oracle = diffusion_oracle(policy, chunk) if method == "diffusion" else flow_oracle(chunk)
    seen: dict[int, list[tuple[Tensor, float]]] = {}

    def predict(x: Tensor, context: Tensor, level: Tensor) -> Tensor:
        seen.setdefault(len(x), []).append((x, float(level[0])))
        return oracle(x, context, level) if len(x) == 3 else torch.zeros_like(x)

    monkeypatch.setattr(policy, "_predict", predict)
    noise = Noise.from_seeds([0, 1, 2])
    found = policy.decide(batch, noise=noise, previous=chunk, max_evaluations=steps)
    torch.testing.assert_close(found.chunk, chunk, atol=2e-3, rtol=0)
    assert found.trace.evaluations.tolist() == [steps] * 3 and len(seen[3]) == steps
    x, level = seen[3][0]
    drawn = Noise.from_seeds([0, 1, 2]).normal(chunk.shape[1:])
    if method == "flow":
        assert level == pytest.approx(share)
        torch.testing.assert_close(x, share * chunk + (1 - share) * drawn)
    else:
        assert level == pytest.approx(1 - share, abs=0.5 * (1 - share) / steps + 0.02)
        alpha = policy.alphas_cumprod[round(100 * level)]
        torch.testing.assert_close(x, alpha.sqrt() * chunk + (1 - alpha).sqrt() * drawn)

    # A row without a previous chunk goes all the way from noise, whatever its batch-mates do.
    seen.clear()
    previous = chunk.clone()
    previous[1] = torch.nan
    policy.decide(batch, noise=Noise.from_seeds([0, 1, 2]), previous=previous, max_evaluations=steps)
    assert len(seen[1]) == len(seen[2]) == steps
    torch.testing.assert_close(seen[1][0][0], drawn[1:2])
    assert seen[1][0][1] == pytest.approx(0 if method == "flow" else 0.99)


@pytest.mark.parametrize(
    ("option", "value"), [("timestep_spacing", "linspace"), ("start", "zero"), ("warm_start_share", 1.0)]
)
def test_unknown_starts_and_spacings_are_named(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{option} must"):
        MatchedBaselineConfig(**{option: value})


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_only_ddpm_draws_noise_on_the_way(sampler: str) -> None:
    policy, batch = baseline(method="diffusion", sampler=sampler), make_batch(2)
    noise, start_only = Noise.from_seeds([0, 1]), Noise.from_seeds([0, 1])
    policy.decide(batch, noise=noise, max_evaluations=3)
    start_only.normal(batch["action"].shape[1:])
    unused = torch.equal(noise.generators[0].get_state(), start_only.generators[0].get_state())
    assert unused == (sampler == "ddim")


@pytest.mark.parametrize("steps", STEPS)
def test_flow_recovers_the_data(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = baseline(method="flow"), make_batch(3)
    monkeypatch.setattr(policy, "_predict", flow_oracle(batch["action"]))
    chunk, evaluations = decide(policy, batch, steps)
    torch.testing.assert_close(chunk, batch["action"], atol=1e-5, rtol=0)
    assert evaluations == steps


@pytest.mark.parametrize("method", ["two_pass", "regression"])
def test_regression_gets_the_inputs_it_was_trained_on(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = baseline(method=method), make_batch(3)
    seen: list[tuple[Tensor, Tensor]] = []

    def predict(x: Tensor, context: Tensor, level: Tensor) -> Tensor:
        seen.append((x, level))
        return batch["action"] + (0.1 if len(seen) == 1 else 0.0)  # the second pass corrects the first

    monkeypatch.setattr(policy, "_predict", predict)
    chunk, evaluations = decide(policy, batch)
    passes = 2 if method == "two_pass" else 1
    assert evaluations == len(seen) == passes
    assert not seen[0][0].any() and not seen[0][1].any()  # the zero chunk at level 0
    torch.testing.assert_close(chunk, batch["action"] + (0.1 if passes == 1 else 0.0))
    if passes == 2:
        torch.testing.assert_close(seen[1][0], TWO_PASS_LEVEL * (batch["action"] + 0.1))
        assert (seen[1][1] == 1).all()


def test_the_two_passes_are_trained_at_the_levels_at_which_they_act(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = baseline(method="two_pass"), make_batch(64)
    seen: dict[str, Tensor] = {}

    def predict(x: Tensor, context: Tensor, level: Tensor) -> Tensor:
        seen.update(x=x, level=level)
        return batch["action"]

    monkeypatch.setattr(policy, "_predict", predict)
    error, _ = policy._loss({k: batch[k] for k in policy.config.observation_features()}, batch["action"])
    assert not error.any()
    refine = seen["level"] == 1
    assert (
        10 < int(refine.sum()) < 54 and (seen["level"][~refine] == 0).all() and not seen["x"][~refine].any()
    )
    noise = (seen["x"][refine] - TWO_PASS_LEVEL * batch["action"][refine]) / (1 - TWO_PASS_LEVEL)
    assert abs(float(noise.mean())) < 0.2 and 0.8 < float(noise.std()) < 1.2


@pytest.mark.parametrize("method", ["diffusion", "flow"])
def test_a_perfect_denoiser_has_no_loss(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = baseline(method=method), make_batch(64)
    oracle = diffusion_oracle if method == "diffusion" else lambda _, chunk: flow_oracle(chunk)
    monkeypatch.setattr(policy, "_predict", oracle(policy, batch["action"]))
    torch.manual_seed(0)
    error, _ = policy._loss({k: batch[k] for k in policy.config.observation_features()}, batch["action"])
    assert float(error.mean()) < 1e-4


def perfect_ebt(batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, **options) -> EBTPolicy:
    policy = make_policy(
        n_action_steps=16, **options
    )  # no old plan beside: the oracle knows one chunk a sample
    assert isinstance(policy, EBTPolicy)
    oracle = Perfect(batch["action"])
    monkeypatch.setattr(policy.model, "denoise", oracle.denoise)
    monkeypatch.setattr(policy.model, "gradient", oracle.gradient)
    return policy


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    "options",
    [{"start": "noise"}, {"start": "zero"}, {"start": "noise", "head": "scalar", "objective": "matching"}],
    ids=["noise", "zero", "gradient"],
)
def test_descent_recovers_the_data(options: dict, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(3)
    # With steps of a fixed length, 20 of them reach zero energy in float32, and the oracle knows whole batches alone.
    policy = perfect_ebt(batch, monkeypatch, noise_levels=None, **options)
    chunk, evaluations = decide(policy, batch, steps)
    torch.testing.assert_close(chunk, batch["action"], atol=1e-5, rtol=0)
    assert 1 <= evaluations <= steps


@pytest.mark.parametrize("steps", [2, 3, 7])
@pytest.mark.parametrize(("start", "first_noise"), [("noise", 1.0), ("warm", 0.3)])
def test_descent_shrinks_the_noise_by_equal_factors_to_the_last_noise(
    start: str, first_noise: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(3)
    policy = perfect_ebt(
        batch, monkeypatch, start=start, warm_start_share=0.7, last_noise=0.05, noise_levels=None
    )
    decision = policy.decide(
        batch, noise=Noise.from_seeds([0, 1, 2]), previous=batch["action"], max_evaluations=steps
    )
    noise = (2 * torch.from_numpy(decision.trace.energy)).sqrt()  # (B, S): ||x - a||
    drawn = Noise.from_seeds([0, 1, 2]).normal(batch["action"].shape[1:])
    torch.testing.assert_close(noise[:, 0], first_noise * (drawn - batch["action"]).flatten(1).norm(dim=1))
    torch.testing.assert_close(noise[:, -1] / noise[:, 0], torch.full((3,), 0.05 / first_noise))
    ratios = noise[:, 1:] / noise[:, :-1]
    torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios))


@pytest.mark.parametrize("steps", [2, 3, 4])
@pytest.mark.parametrize(("start", "first_noise"), [("noise", 2.0), ("warm", 0.25)])
def test_steps_of_added_noise_are_equal_whatever_the_budget(
    start: str, first_noise: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(3)
    policy = perfect_ebt(batch, monkeypatch, start=start, warm_start_share=0.8, noise_levels=(0.1, 2.0))
    decision = policy.decide(
        batch, noise=Noise.from_seeds([0, 1, 2]), previous=batch["action"], max_evaluations=steps
    )
    left = (2 * torch.from_numpy(decision.trace.energy)).sqrt()  # (B, S): ||x - a||
    drawn = first_noise * Noise.from_seeds([0, 1, 2]).normal(batch["action"].shape[1:])
    start_chunk = drawn if start == "noise" else batch["action"] + drawn
    torch.testing.assert_close(left[:, 0], (start_chunk - batch["action"]).flatten(1).norm(dim=1))
    ratio = 0.15 / 0.85 / first_noise  # of last_noise to the noise of the start, as standard deviations
    torch.testing.assert_close(left[:, 1:] / left[:, :-1], torch.full((3, steps - 1), ratio))


def test_flow_weighting_is_that_of_the_velocity_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # The velocity error is the chunk error divided by n^2: little noise weighs most.
    policy, chunk = make_policy(), make_batch(5)["action"]
    n = torch.linspace(0, 1, 5)[:, None, None]
    monkeypatch.setattr(objectives, "noised", lambda chunk, config: (chunk, n))
    error, _ = objectives.denoise(Perfect(chunk + 1), torch.zeros(()), chunk, policy.config)  # type: ignore[arg-type]
    expected = 1 / (n.square() + objectives.FLOW_FLOOR) / objectives.FLOW_MEAN
    torch.testing.assert_close(error, expected.expand_as(error))


def test_interpolated_chunks_are_data_without_noise_and_noise_without_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunk, config = make_batch(2)["action"], make_policy(noise_levels=None).config
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.tensor([0.0, 0.75])[:, None, None])
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    x, n = objectives.noised(chunk, config)
    assert n.flatten().tolist() == [0.0, 0.75]
    torch.testing.assert_close(x, (1 - n) * chunk)
