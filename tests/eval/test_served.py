"""A policy over the network decides as it does in a rollout: the same chunk carried on, the same noise."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from lerobot.configs.types import FeatureType, PolicyFeature

from ebt_policy.errors import UserError
from ebt_policy.eval.served import ServedRunner, normaliser_sha256, serve
from ebt_policy.hardware.client import RemotePolicy
from ebt_policy.hardware.server import Decider, PolicyServer
from ebt_policy.noise import Noise
from ebt_policy.runner import RunnerDecision, load_runner, shifted
from ebt_policy.trace import Trace

TIMEOUT_S = 60.0


@contextmanager
def serving(decider: Decider) -> Iterator[str]:
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    server = PolicyServer(decider, port=0)

    async def run() -> None:
        async with server:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(TIMEOUT_S)
    try:
        yield f"ws://127.0.0.1:{server.port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_S)
        loop.close()


def frames(count: int) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [
        {
            "observation.state": draw.uniform(0, 512, 2).astype(np.float32),
            "observation.environment_state": draw.uniform(0, 512, 16).astype(np.float32),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
def test_replies_equal_those_of_the_runner_with_history_and_plan_carried_on(kind, checkpoint):
    runner = load_runner(checkpoint(kind))
    steps, ticks = runner.n_obs_steps, runner.n_action_steps
    seen, noise, previous, expected = frames(2 * ticks + 1), Noise.from_seeds([7]), None, []
    for tick in (0, ticks, 2 * ticks):
        history = [seen[max(tick - i, 0)] for i in reversed(range(steps))]
        batch = {name: np.stack([frame[name] for frame in history])[None] for name in seen[0]}
        decision = runner.decide(batch, noise, previous)
        previous = shifted(decision.chunk, np.array([ticks]))
        expected.append(decision)

    served = ServedRunner(load_runner(checkpoint(kind)), seed=7)
    with serving(served) as url, RemotePolicy(url) as policy:
        for _episode in range(2):  # a reset begins the same episode again
            policy.reset()
            found = []
            for tick, frame in enumerate(seen):
                if tick % ticks:
                    policy.observe(frame)
                else:
                    found.append(policy.decide(frame, TIMEOUT_S))
            for reply, decision in zip(found, expected, strict=True):
                np.testing.assert_array_equal(reply.actions, decision.actions[0])
                assert reply.evaluations == decision.trace.evaluations[0]
                assert (reply.energy is None) == np.isnan(decision.trace.final_energy[0])


def test_a_deadline_ends_the_thinking(checkpoint):
    served = ServedRunner(load_runner(checkpoint("ebt")))
    observation = {
        name: np.stack([value] * served.welcome.n_obs_steps) for name, value in frames(1)[0].items()
    }
    without = served.decide(observation, tick=0, reset=True, deadline_s=None)
    hurried = served.decide(observation, tick=0, reset=True, deadline_s=1e-9)
    assert hurried.stop_reason == "deadline" and hurried.evaluations < without.evaluations
    again = served.decide(observation, tick=0, reset=True, deadline_s=None)
    np.testing.assert_array_equal(again.actions, without.actions)


def test_the_normalisation_has_a_hash_of_its_own(checkpoint, tmp_path):
    folder = checkpoint("ebt")
    before = normaliser_sha256(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "model.safetensors").write_bytes(b"other weights")
    assert normaliser_sha256(copy) == before
    statistics = next(copy.glob("policy_preprocessor_step*.safetensors"))
    statistics.write_bytes(statistics.read_bytes()[:-1] + b"\x7f")
    assert normaliser_sha256(copy) != before


def test_pictures_travel_as_bytes_and_are_decided_on_as_shares_of_one():
    """As environments and datasets give them: float32 in 0..1."""
    seen = {}

    def decide(observations, noise, previous):
        seen.update(observations)
        return RunnerDecision(np.zeros((1, 1, 2)), np.zeros((1, 4, 2)), Trace.without_steps(1, 1))

    features = {"observation.image": PolicyFeature(FeatureType.VISUAL, (3, 2, 2))}
    action = PolicyFeature(FeatureType.ACTION, (2,))
    config = SimpleNamespace(input_features=features, action_feature=action)
    runner = SimpleNamespace(
        config=config, n_obs_steps=1, n_action_steps=1, checkpoint_sha256="", decide=decide
    )
    served = ServedRunner(runner)
    assert served.welcome.features["observation.image"].dtype == "uint8"
    picture = np.array([0, 51, 255] * 4, np.uint8).reshape(1, 3, 2, 2)
    served.decide({"observation.image": picture}, tick=0, reset=True, deadline_s=None)
    assert seen["observation.image"].dtype == np.float32
    np.testing.assert_allclose(seen["observation.image"], picture[None] / 255, rtol=1e-6)


def test_mistakes_are_told_before_the_policy_is_loaded(tmp_path, monkeypatch):
    monkeypatch.delenv("EBT_POLICY_TOKEN", raising=False)
    with pytest.raises(UserError, match="cannot be read"):
        serve("shipped:pusht_keypoints_ebt", "127.0.0.1", 0, tmp_path / "none")
    with pytest.raises(UserError, match="Other computers"):
        serve("shipped:pusht_keypoints_ebt", "0.0.0.0", 0, None)
    with pytest.raises(UserError, match="above 0"):
        serve("shipped:pusht_keypoints_ebt", "127.0.0.1", 0, None, heartbeat_s=0)
