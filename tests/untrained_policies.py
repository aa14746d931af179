"""Small policies with random weights, saved as checkpoints, and runners that need none."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:  # the process that starts pytest-xdist's workers runs no test and imports no torch
    from ebt_policy.inference.runner import RunnerDecision
    from ebt_policy.model.noise import Noise

OPTIONS = {
    "ebt": {"width": 16, "layers": 1, "attention_heads": 2},
    "matched_baseline": {"width": 16, "layers": 1, "attention_heads": 2, "num_inference_steps": 4},
    "diffusion": {
        "horizon": 16,
        "n_action_steps": 8,
        "down_dims": (8, 16),
        "n_groups": 4,
        "diffusion_step_embed_dim": 8,
        "num_inference_steps": 4,
    },
    "act": {
        "chunk_size": 16,
        "n_action_steps": 8,
        "dim_model": 16,
        "n_heads": 2,
        "dim_feedforward": 32,
        "n_encoder_layers": 1,
        "latent_dim": 4,
        "pretrained_backbone_weights": None,
    },
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """checkpoint(policy type) -> pretrained_model folder of an untrained PushT keypoints policy."""
    import torch
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    import ebt_policy  # noqa: F401

    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind in made:
            return made[kind]
        folder = tmp_path_factory.mktemp("checkpoints") / kind
        config = make_policy_config(
            kind,
            device="cpu",
            input_features={
                "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
                "observation.environment_state": PolicyFeature(FeatureType.ENV, (16,)),
            },
            output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
            normalization_mapping=dict.fromkeys(("STATE", "ENV", "ACTION"), NormalizationMode.MIN_MAX),
            **OPTIONS[kind],
        )
        features = config.input_features | config.output_features
        stats = {
            name: {"min": torch.zeros(f.shape), "max": torch.full(f.shape, 512.0)}
            for name, f in features.items()
        }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            policy = get_policy_class(kind)(config)
        for part in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
            part.save_pretrained(folder)
        made[kind] = folder
        return folder

    return make


def save_camera_policy(
    folder: Path, camera: str, size: tuple[int, int], low: np.ndarray, high: np.ndarray, fps: float
) -> Path:
    """An untrained policy that sees a camera and joints, whose positions and targets are from `low` to `high`."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature

    from ebt_policy.configuration_ebt import EBTConfig
    from ebt_policy.modeling_ebt import EBTPolicy
    from ebt_policy.processor_ebt import make_ebt_pre_post_processors

    joints = len(low)
    config = EBTConfig(
        input_features={
            camera: PolicyFeature(FeatureType.VISUAL, (3, *size)),
            "observation.state": PolicyFeature(FeatureType.STATE, (joints,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (joints,))},
        vision="small",
        width=16,
        layers=1,
        attention_heads=2,
        device="cpu",
        dataset_fps=fps,
    )
    limits = {"min": torch.from_numpy(low), "max": torch.from_numpy(high)}
    stats = {
        "observation.state": limits,
        "action": limits,
        camera: {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.3)},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = EBTPolicy(config)
    for part in (policy, *make_ebt_pre_post_processors(config, dataset_stats=stats)):
        part.save_pretrained(folder)
    return folder


class StubRunner:
    """Walks from where it is towards noise; every part of its input has an effect on its actions."""

    n_obs_steps, n_action_steps, horizon, device = 2, 8, 16, "cpu"

    def decide(
        self, observations: dict[str, np.ndarray], noise: "Noise", previous: np.ndarray | None = None
    ) -> "RunnerDecision":
        from ebt_policy.inference.runner import RunnerDecision
        from ebt_policy.model.trace import Trace

        state = observations["observation.state"]
        batch = len(state)
        chunk = noise.normal((self.horizon, 2)).numpy() / 2
        if previous is not None:
            chunk += previous / 2
        actions = state[:, -1:] + (state[:, -1:] - state[:, :1]) + 100 * chunk[:, : self.n_action_steps]
        energy = np.abs(chunk).mean((1, 2))[:, None]
        ones, counts = np.ones((batch, 1), np.float32), np.full(batch, 2)
        trace = Trace(energy, ones, ones, counts, np.full(batch, 3, np.int8), 0.001)
        return RunnerDecision(actions=actions, chunk=chunk, trace=trace)


@pytest.fixture
def stub_runner() -> StubRunner:
    return StubRunner()
