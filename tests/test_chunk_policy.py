"""LeRobot's interface: the same action in every context, alone or in a batch; history, queue, strict loading."""

import contextlib
import re

import pytest
import torch
from core_fixtures import LOW_DIM, SHAPES, first_frames, make_batch, make_policy
from safetensors.torch import load_file, save_file
from torch import Tensor

from ebt_policy.chunk_policy import ChunkPolicy
from ebt_policy.errors import UserError
from ebt_policy.inference.runner import Runner
from ebt_policy.model.noise import Noise
from ebt_policy.modeling_ebt import EBTPolicy

POLICIES = [
    ("ebt", {}),
    ("ebt", {"start": "zero", "max_evaluations": 4}),
    ("ebt", {"start": "noise"}),
    ("ebt", {"head": "scalar", "objective": "matching", "start": "noise"}),
    ("ebt", {"objective": "matching"}),
    ("matched_baseline", {"method": "diffusion", "num_inference_steps": 5}),
    ("matched_baseline", {"method": "flow", "num_inference_steps": 2}),
    ("matched_baseline", {"method": "two_pass"}),
    ("matched_baseline", {"method": "regression"}),
]
NAMES = ["-".join([kind, *map(str, options.values())]) for kind, options in POLICIES]
CONTEXTS = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize(("kind", "options"), POLICIES, ids=NAMES)
def test_actions_are_the_same_in_every_context_and_leave_no_gradient(kind: str, options: dict) -> None:
    policy = make_policy(kind, **options)
    results = {}
    for name, context in CONTEXTS.items():
        policy.reset(seeds=range(3))
        with context():
            frames = first_frames(make_batch(3))  # made inside: inference tensors under inference_mode
            results[name] = torch.stack([policy.select_action(frames) for _ in range(10)])
    for name in CONTEXTS:
        torch.testing.assert_close(results[name], results["grad"], rtol=0, atol=0)
        assert not results[name].requires_grad
    assert all(p.grad is None for p in policy.parameters())


@pytest.mark.parametrize(("kind", "options"), POLICIES, ids=NAMES)
def test_a_row_of_a_batch_acts_as_it_would_alone(kind: str, options: dict) -> None:
    policy = make_policy(kind, **options)
    batch = make_batch(4)
    together = policy.decide(batch, Noise.from_seeds(range(4)))
    for i in range(4):
        alone = policy.decide({k: v[i : i + 1] for k, v in batch.items()}, Noise.from_seeds([i]))
        torch.testing.assert_close(alone.chunk[0], together.chunk[i], rtol=1e-4, atol=1e-5)
        assert alone.trace.evaluations[0] == together.trace.evaluations[i]


def test_gradients_are_real_under_inference_mode() -> None:
    # torch.func.grad is silently zero there, which would leave the start chunk as it is.
    policy = make_policy(head="scalar", objective="matching", start="noise", max_evaluations=3)
    with torch.inference_mode():
        trace = policy.decide(make_batch(2), Noise.from_seeds(range(2))).trace
    assert (trace.residual_rms[:, 0] > 0).all()
    assert (trace.energy_drop > 0).all()


def test_the_queue_holds_a_chunk_and_the_history_the_last_frames() -> None:
    policy = make_policy(n_action_steps=3, start="zero")
    frames = [first_frames(make_batch(2, seed=s)) for s in range(4)]
    actions = [policy.select_action(f) for f in frames]
    first = policy.decide({k: torch.stack([v, v], 1) for k, v in frames[0].items()}).chunk
    torch.testing.assert_close(torch.stack(actions[:3], 1), first[:, :3])
    history = {k: torch.stack([frames[2][k], frames[3][k]], 1) for k in frames[3]}
    torch.testing.assert_close(actions[3], policy.decide(history).chunk[:, 0])


def test_reset_forgets_everything() -> None:
    policy = make_policy()
    frames = first_frames(make_batch(2))
    policy.reset(seeds=[1, 2])
    first = [policy.select_action(frames) for _ in range(9)]
    policy.reset(seeds=[1, 2])
    again = [policy.select_action(frames) for _ in range(9)]
    torch.testing.assert_close(torch.stack(first), torch.stack(again))


def test_a_warm_start_continues_the_previous_chunk_where_there_is_one() -> None:
    policy = make_policy(start="warm", warm_start_share=1.0, max_evaluations=1, n_action_steps=4)
    batch = make_batch(2)
    previous = make_batch(2, seed=5)["action"]
    previous[1] = torch.nan
    noise = Noise.from_seeds([0, 1])
    start = policy._start(2, noise, previous, torch.device("cpu"))
    torch.testing.assert_close(start[0], previous[0])
    torch.testing.assert_close(start[1], 2 * Noise.from_seeds([1]).normal((1, 16, 2))[0, 0])
    assert torch.isfinite(policy.decide(batch, noise, previous).chunk).all()


@pytest.mark.parametrize("budget", [2, 3, 8])
@pytest.mark.parametrize("start", ["warm", "noise"])
def test_interpolation_leaves_the_last_evaluation_the_same_noise(budget: int, start: str) -> None:
    policy = make_policy(start=start, last_noise=0.1, noise_levels=None)
    left = policy.config.start_noise * (1 - policy.rule(budget).step_size) ** (budget - 1)
    assert left == pytest.approx(0.1)
    assert make_policy(step_size=0.4).rule(budget).step_size == 0.4


def recorded(policy: ChunkPolicy, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor | None, Tensor]]:
    """(warm start, chunk) of each decision from now on."""
    decisions, decide = [], policy.decide

    def spy(batch, noise=None, previous=None, max_evaluations=None, **options):
        decision = decide(batch, noise, previous, max_evaluations, **options)
        decisions.append((previous, decision.chunk))
        return decision

    monkeypatch.setattr(policy, "decide", spy)
    return decisions


def later(chunk: Tensor, ticks: int) -> Tensor:
    """What is left of (B, H, A) after `ticks`, its last action repeated."""
    return torch.cat([chunk[:, ticks:], *[chunk[:, -1:]] * ticks], 1)


@pytest.mark.parametrize("n_action_steps", [1, 3])
def test_select_action_starts_from_what_is_left_of_the_last_plan(n_action_steps: int, monkeypatch) -> None:
    policy = make_policy(n_action_steps=n_action_steps)
    decisions = recorded(policy, monkeypatch)
    for tick in range(2 * n_action_steps + 1):
        policy.select_action(first_frames(make_batch(2, seed=tick)))
    (first, one), (second, two), (third, _) = decisions
    assert first is None
    torch.testing.assert_close(second, later(one, n_action_steps), rtol=0, atol=0)
    torch.testing.assert_close(third, later(two, n_action_steps), rtol=0, atol=0)
    policy.reset()
    policy.select_action(first_frames(make_batch(2)))
    assert decisions[-1][0] is None


def test_a_caller_of_chunks_says_how_far_it_is_or_gets_no_warm_start(monkeypatch) -> None:
    policy = make_policy()
    decisions = recorded(policy, monkeypatch)
    frames = first_frames(make_batch(2))
    for ticks in (None, 5, 1, None, 16):
        policy.predict_action_chunk(frames, ticks=ticks)
    starts, chunks = zip(*decisions, strict=True)
    torch.testing.assert_close(starts[1], later(chunks[0], 5), rtol=0, atol=0)
    torch.testing.assert_close(starts[2], later(chunks[1], 1), rtol=0, atol=0)
    assert starts[0] is starts[3] is starts[4] is None  # unknown, unknown, past the plan's end


def test_what_a_caller_does_to_its_actions_changes_no_later_decision(monkeypatch) -> None:
    starts = []
    for touched in (False, True):
        policy = make_policy(n_action_steps=2, start="warm")
        decisions = recorded(policy, monkeypatch)
        policy.reset(seeds=[0, 1])
        for _ in range(3):
            actions = policy.predict_action_chunk(first_frames(make_batch(2)), ticks=1)
            if touched:
                actions.fill_(7.0)
        starts.append(decisions[-1][0])
    torch.testing.assert_close(starts[0], starts[1], rtol=0, atol=0)


def test_another_number_of_episodes_begins_anew() -> None:
    policy, fresh = make_policy(start="zero"), make_policy(start="zero")
    policy.select_action(first_frames(make_batch(2)))
    frames = first_frames(make_batch(3, seed=1))
    torch.testing.assert_close(policy.select_action(frames), fresh.select_action(frames), rtol=0, atol=0)


def test_chunks_do_not_depend_on_what_an_earlier_caller_saw() -> None:
    """LeRobot's asynchronous server serves one client after the other and never calls `reset`."""
    policy, fresh = make_policy(start="zero"), make_policy(start="zero")
    for seed in range(3):
        policy.predict_action_chunk(first_frames(make_batch(2, seed=seed)))
    frames = first_frames(make_batch(2, seed=9))
    torch.testing.assert_close(policy.predict_action_chunk(frames), fresh.predict_action_chunk(frames))


@pytest.mark.parametrize("kind", ["ebt", "matched_baseline"])
@pytest.mark.parametrize("shared", [True, False])
def test_cameras_train_and_act(kind: str, shared: bool) -> None:
    features = tuple(SHAPES)
    policy = make_policy(kind, features, separate_encoder_per_camera=not shared).train()
    batch = make_batch(3, features)
    for block in (policy.model if kind == "ebt" else policy).trunk.blocks:
        torch.nn.init.normal_(block.modulate.weight, std=0.02)
    loss, _ = policy(batch)
    loss.backward()
    trained = [name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("camera_encoders" in name for name in trained)
    policy.eval()
    chunks = [policy.decide(batch, Noise.from_seeds(range(3)), max_evaluations=2).chunk for _ in range(2)]
    torch.testing.assert_close(chunks[0], chunks[1])  # centre crop: no randomness left


def test_held_out_loss_under_no_grad_equals_the_loss_with_gradients() -> None:
    for options in (
        {},
        {"objective": "matching"},
        {"objective": "unrolled", "head": "scalar", "unrolled_steps": 2},
    ):
        policy = make_policy(**options)
        torch.manual_seed(3)
        expected, _ = policy(make_batch(4))
        torch.manual_seed(3)
        with torch.no_grad():
            found, _ = policy(make_batch(4))
        torch.testing.assert_close(found, expected.detach())


def test_forward_without_reduction_has_one_loss_for_each_sample() -> None:
    policy = make_policy()
    torch.manual_seed(0)
    each, _ = policy(make_batch(5), reduction="none")
    torch.manual_seed(0)
    mean, _ = policy(make_batch(5))
    assert each.shape == (5,)
    torch.testing.assert_close(each.mean(), mean)


def test_loading_is_strict(tmp_path) -> None:
    policy = make_policy()
    policy.save_pretrained(tmp_path)
    loaded = EBTPolicy.from_pretrained(tmp_path)
    for name, tensor in policy.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
    weights = load_file(tmp_path / "model.safetensors")
    for broken in (
        {k: v for k, v in weights.items() if k != "model.trunk.position"},
        weights | {"extra": torch.zeros(1)},
        weights | {"model.trunk.position": torch.zeros(1, 1)},
    ):
        save_file(broken, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=r"position|extra"):
            EBTPolicy.from_pretrained(tmp_path)


def test_loading_does_not_fetch_the_weights_that_training_started_from(tmp_path, monkeypatch) -> None:
    policy = make_policy(features=tuple(SHAPES), backbone_norm="frozen_batch")
    policy.config.pretrained_backbone_weights = "ResNet18_Weights.IMAGENET1K_V1"
    policy.save_pretrained(tmp_path)
    monkeypatch.setattr(
        "torch.hub.load_state_dict_from_url", lambda *a, **k: pytest.fail("went to the network")
    )
    loaded = EBTPolicy.from_pretrained(tmp_path)
    assert loaded.config.pretrained_backbone_weights == "ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.parametrize("kind", ["ebt", "matched_baseline"])
@pytest.mark.parametrize("act", ["select_action", "predict_action_chunk"])
def test_acting_in_training_mode_is_as_in_evaluation_and_leaves_the_mode(kind: str, act: str) -> None:
    features = ("observation.state", "observation.images.top")
    policy = make_policy(kind, features, dropout=0.5, n_obs_steps=1)
    for block in (policy.model if kind == "ebt" else policy).trunk.blocks:
        torch.nn.init.normal_(block.modulate.weight, std=0.02)
    actions = []
    for training in (False, True, True):
        policy.train(training).reset(seeds=[0, 1])
        actions.append(getattr(policy, act)(first_frames(make_batch(2, features))))
        assert all(module.training == training for module in policy.modules())
    assert torch.equal(actions[0], actions[1]) and torch.equal(actions[0], actions[2])
    with pytest.raises(UserError):  # nor does a decision that fails
        policy.train().select_action({"observation.state": torch.full((2, 2), torch.nan)})
    assert policy.training


def test_a_missing_observation_is_named() -> None:
    policy = make_policy()
    seeing = make_policy(features=("observation.state", "observation.images.top"))
    with pytest.raises(UserError, match=r"this batch has \['observation.state'\].*--env.obs_type"):
        seeing.select_action({"observation.state": torch.zeros(1, 2), "info": {}})
    with pytest.raises(UserError, match="observation.environment_state"):
        policy.select_action({"observation.state": torch.zeros(1, 2)})
    frames = first_frames(make_batch(1)) | {"observation.state": torch.zeros(1, 3)}
    with pytest.raises(UserError, match=r"'observation.state' has \(3,\) numbers; the policy expects \(2,\)"):
        policy.select_action(frames)


@pytest.mark.parametrize(
    ("resize_shape", "shape", "taken"),
    [
        (None, (3, 40, 48), True),
        (None, (3, 80, 96), False),
        (None, (1, 40, 48), False),
        (None, (40, 48, 3), False),
        ((36, 40), (3, 80, 96), True),
        ((36, 40), (1, 80, 96), False),
        ((36, 40), (40, 48, 3), False),
    ],
)
def test_pictures_of_another_shape_are_refused_by_lerobots_path_as_by_the_runner(resize_shape, shape, taken):
    camera = "observation.images.top"
    policy = make_policy(features=("observation.state", camera), resize_shape=resize_shape, n_obs_steps=1)
    frames = {"observation.state": torch.zeros(2, 2), camera: torch.rand(2, *shape)}
    windows = {name: value[:, None] for name, value in frames.items()}
    raw = {name: value.numpy() for name, value in windows.items()}
    runner = Runner(policy, lambda batch: batch, lambda chunk: chunk)
    for act in (
        lambda: policy.select_action(frames),
        lambda: policy.predict_action_chunk(windows),
        lambda: runner.decide(raw, Noise.from_seeds([0, 1])),
    ):
        if taken:
            act()
            continue
        with pytest.raises(UserError, match=rf"'{camera}'.*{re.escape(str(shape))}.*expects \(3, 40, 48\)"):
            act()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"horizon": 15}, "actions_per_token"),
        ({"n_action_steps": 17}, "n_action_steps"),
        ({"head": "scalar"}, "residual"),
        ({"head": "nothing"}, "head"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make_policy(**options)


@pytest.mark.parametrize(("kind", "options"), POLICIES, ids=NAMES)
def test_nan_in_an_observation_is_named_and_gives_no_action(kind: str, options: dict) -> None:
    policy = make_policy(kind, **options)
    frames = first_frames(make_batch(2))
    frames["observation.state"][1, 0] = torch.nan
    for act in (policy.select_action, policy.predict_action_chunk):
        with pytest.raises(UserError, match="'observation.state' holds NaN"):
            act(frames)
    # Below these checks: the sample has no finite action, its batch-mate does not notice.
    batch = make_batch(2)
    usual = policy.decide(batch, Noise.from_seeds([0, 1])).chunk
    batch["observation.state"][1] = torch.nan
    chunk = policy.decide(batch, Noise.from_seeds([0, 1])).chunk
    torch.testing.assert_close(chunk[0], usual[0])
    assert not torch.isfinite(chunk[1]).any()


@pytest.mark.parametrize(("kind", "options"), POLICIES, ids=NAMES)
def test_nan_in_the_weights_gives_no_action(kind: str, options: dict) -> None:
    policy = make_policy(kind, **options)
    next(p for name, p in policy.named_parameters() if "mix" in name).data[0] = torch.nan
    with pytest.raises(UserError, match="no finite action"):
        policy.select_action(first_frames(make_batch(2)))


def test_extra_energies_bound_the_actions() -> None:
    policy = make_policy(start="zero")
    batch = make_batch(4)
    free = policy.decide(batch).chunk
    limit = float(free.abs().max()) / 2
    policy.extra_energies = [lambda x: 1e3 * (x.abs() - limit).clamp(min=0).square().sum((1, 2))]
    assert policy.decide(batch).chunk.abs().max() < 1.1 * limit


def test_contexts_do_not_leak() -> None:
    policy = make_policy()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        policy.select_action(first_frames(make_batch(2)))
        assert torch.is_inference_mode_enabled()
    assert tuple(policy.config.observation_features())[::-1] == LOW_DIM
