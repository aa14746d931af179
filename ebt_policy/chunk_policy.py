"""Base class of our policies: LeRobot's interface, observation history and action queue.

Legend: B batch, T observation steps, H horizon, A action dimension.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from safetensors.torch import load_file
from torch import Tensor, nn

import ebt_policy.data.split_state
import ebt_policy.language.task_step  # noqa: F401  saved preprocessors name these steps
from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.data.feature_names import feature_names
from ebt_policy.errors import UserError
from ebt_policy.inference.checkpoint_features import check_features, fits
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.language.choose import add_sentences, condition_on, dataset_sentences
from ebt_policy.language.encoders import OBS_TASK
from ebt_policy.model.contexts import detached_fp32, evaluating, fp32_grad_enabled
from ebt_policy.model.noise import Noise
from ebt_policy.model.overlap import Overlap
from ebt_policy.model.parameter_groups import parameter_groups
from ebt_policy.model.trace import Decision, Trace

if TYPE_CHECKING:
    from huggingface_hub import ModelCard
    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

# In LeRobot's commands simulated environments show pictures only when told to.
PICTURES_HINT = (
    "Pictures in lerobot-eval: --env.obs_type=pixels_agent_pos (PushT), --env.cameras (ALOHA, robosuite)."
)


class ChunkPolicy(PreTrainedPolicy):
    """Base of EBTPolicy and of the matched baselines. Sub-classes give `_loss` and `_decide`."""

    # LeRobot wants both of every sub-class of PreTrainedPolicy, which itself declares them as None.
    config_class: Any = ChunkPolicyConfig
    name: Any = "chunk_policy"
    config: ChunkPolicyConfig

    def __init__(
        self,
        config: ChunkPolicyConfig,
        *,
        trained: bool = False,
        dataset_meta: LeRobotDatasetMetadata | None = None,
        **kwargs: Any,
    ) -> None:
        """trained: weights will be loaded into it. dataset_meta: what it is trained on, which the config then keeps.

        LeRobot also passes dataset_stats, which are for the processors.
        """
        super().__init__(config)
        if dataset_meta is not None:  # our own training has done it already, for the episodes in use
            sentences = dataset_sentences(dataset_meta)
            if trained:
                add_sentences(config, sentences)
            elif config.task_sentences is None:
                condition_on(config, sentences)
        config.validate_features(trained)
        if dataset_meta is not None:
            config.action_feature_names = feature_names(dataset_meta.features, ACTION)
            config.state_feature_names = feature_names(dataset_meta.features, OBS_STATE)
            config.dataset_fps = float(dataset_meta.fps)
            config.robot_type = dataset_meta.robot_type
        self.config = config
        self.last_trace: Trace | None = None
        self.reset()

    # -- what a sub-class gives ------------------------------------------------------------------------------------
    def _loss(self, observations: dict[str, Tensor], chunk: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of each action entry (B, H, A), and metrics."""
        raise NotImplementedError

    def _decide(
        self,
        observations: dict[str, Tensor],
        noise: Noise | None,
        previous: Tensor | None,
        max_evaluations: int | None,
        overlap: Overlap | None,
    ) -> Decision:
        raise NotImplementedError

    # -- training --------------------------------------------------------------------------------------------------
    def get_optim_params(self) -> list[dict]:
        """Weight decay on matrices only."""
        return parameter_groups(self, self.config.optimizer_weight_decay)

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """Training loss of a batch: scalar, or (B,) with reduction "none".

        batch: observations (B, T, ...), action (B, H, A), action_is_pad (B, H) bool. Works under no_grad, which
        LeRobot uses for the held-out loss.
        """
        loss, metrics = self.loss(batch, reduction)
        return loss, {name: float(value) for name, value in metrics.items()}

    def loss(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict[str, Tensor]]:
        """As `forward`, with metrics left on the device, so that it can be compiled as one graph."""
        chunk = batch[ACTION]
        if chunk.ndim == 2:  # an action of one number
            chunk = chunk[..., None]
        observations = self._windows(batch)
        if self.training and self.config.observation_noise:
            observations = {name: self._perturbed(value) for name, value in observations.items()}
        error, metrics = self._loss(observations, chunk)
        weight = torch.ones_like(chunk[..., :1])
        if self.config.mask_padding and "action_is_pad" in batch:
            weight = (~batch["action_is_pad"]).to(chunk.dtype)[..., None]
        per_sample = (error * weight).sum((1, 2)) / (weight.sum((1, 2)).clamp(min=1) * chunk.shape[-1])
        if reduction == "none":
            return per_sample, metrics
        # Over all valid entries of the batch, so that a window with one valid action does not weigh like sixteen.
        mean = (error * weight).sum() / (weight.sum().clamp(min=1) * chunk.shape[-1])
        return mean, metrics

    def _perturbed(self, observation: Tensor) -> Tensor:
        """Noise on vectors (B, T, F); images are augmented by their encoder."""
        if observation.ndim != 3:
            return observation
        strength = self.config.observation_noise * torch.randn_like(observation[:, :1, :1]).abs()
        return observation + strength * torch.randn_like(observation)

    # -- acting ----------------------------------------------------------------------------------------------------
    def reset(self, seeds: Sequence[int] | None = None) -> None:
        """Forgets history and queue. `seeds`, one for each row, make random starts reproducible."""
        self._history: dict[str, deque[Tensor]] = {}
        self._queue: deque[Tensor] = deque()
        self._memory = PlanMemory()
        self._tick = 0  # calls of select_action since reset
        self._noise = None if seeds is None else Noise.from_seeds(seeds)

    def decide(
        self,
        batch: dict[str, Tensor],
        noise: Noise | None = None,
        previous: Tensor | None = None,
        max_evaluations: int | None = None,
        overlap: Overlap | None = None,
    ) -> Decision:
        """One decision for B samples, in evaluation mode. Pure but for `last_trace`: no history, no queue.

        batch: normalised observations (B, T, ...). noise: one generator for each row (None: the global one).
        previous: (B, H, A), the last chunk shifted to the current tick; rows of NaN where there is none. overlap: with it, for
        real-time chunking. Raises UserError where this policy has none.
        """
        if overlap is not None and not self.supports_rtc():
            raise UserError(
                f"A policy of type '{self.name}' has no real-time chunking: it cannot fix the actions that are executed while it "
                "thinks. Use one of type 'ebt', or blend its plans."
            )
        device = next(self.parameters()).device
        with evaluating(self), fp32_grad_enabled(device.type):
            observations = {k: detached_fp32(v).to(device) for k, v in self._observations(batch).items()}
            if previous is not None:
                previous = detached_fp32(previous).to(device)
            if overlap is not None:
                overlap = overlap.to(device)
            decision = self._decide(observations, noise, previous, max_evaluations, overlap)
            decision.chunk = decision.chunk.detach()
        self.last_trace = decision.trace
        return decision

    def predict_action_chunk(
        self, batch: dict[str, Tensor], *, ticks: int | None = None, **kwargs: Any
    ) -> Tensor:
        """Normalised actions (B, n_action_steps, A) from the current tick on.

        batch: normalised observations (B, T, ...), or the current frame alone (B, ...), which then stands in for the
        earlier ones. ticks: control periods since the last call, for a warm start from the last plan. None, as LeRobot's
        asynchronous server calls it: unknown, so no warm start; another episode may have begun since.
        """
        if ticks is None:
            self._memory.forget()
        else:
            self._tick += ticks
        return self._plan(self._with_time(batch))[:, : self.config.n_action_steps]

    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """Normalised action (B, A) for the current tick; decides anew when the last chunk is used up.

        To be called once per control period, with `reset` before each episode. Another number of rows than before means other
        episodes: then it resets itself.
        """
        known = next(iter(self._history.items()), None)
        if known and len(known[1][-1]) != len(self._present(batch)[known[0]]):
            self.reset()
        self._remember(batch)
        if not self._queue:
            stacked = {name: torch.stack(list(frames), 1) for name, frames in self._history.items()}
            self._queue.extend(self._plan(stacked)[:, : self.config.n_action_steps].unbind(1))
        self._tick += 1
        return self._queue.popleft()

    def _plan(
        self, batch: dict[str, Tensor], previous: Tensor | None = None, overlap: Overlap | None = None
    ) -> Tensor:
        """Decides on (B, T, ...) with `previous` (B, H, A), else the last plan, as warm start -> (B, H, A)."""
        for name, value in self._observations(batch).items():
            if not torch.isfinite(value).all():
                raise UserError(
                    f"Observation feature '{name}' holds NaN or infinity; expected finite numbers. Look at the sensor or "
                    "environment that it comes from."
                )
        last = self._memory.at(self._tick)
        if previous is None and last is not None and len(last) == len(next(iter(batch.values()))):
            previous = torch.from_numpy(last)
        chunk = self.decide(batch, self._noise, previous, overlap=overlap).chunk
        if not torch.isfinite(chunk).all():
            raise UserError(
                "The policy has no finite action for this observation, so none is given. Its weights or normalisation "
                "statistics are damaged: look at the training log, and check the data with `ebt-policy doctor`."
            )
        self._memory.store(chunk.cpu().numpy(), self._tick)
        return chunk

    # -- observations ----------------------------------------------------------------------------------------------
    def _present(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The features that the policy looks at. Raises UserError where one is missing."""
        names = self.config.observation_features()
        missing = [name for name in names if name not in batch]
        if missing:
            found = sorted(name for name in batch if name.startswith("observation"))
            pictures = any(len(names[name]) == 3 for name in missing)
            raise UserError(
                f"The policy expects observation feature(s) {missing}; this batch has {found}. "
                "Rename the features of the robot, environment or dataset, or train a policy on these."
                + (f" {PICTURES_HINT}" if pictures else "")
            )
        return {name: batch[name] for name in names}

    def _observations(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `_present`. Raises UserError also where a vector or a picture has another size."""
        observations = self._present(batch)
        for name, shape in self.config.observation_features().items():
            found = tuple(batch[name].shape[-len(shape) :])
            if fits(shape, found, self.config.resize_shape):
                continue
            if len(shape) == 1:
                raise UserError(
                    f"Observation feature '{name}' has {found} numbers; the policy expects {shape}. "
                    "Choose the robot, environment or dataset that it was trained for."
                )
            raise UserError(
                f"Observation feature '{name}' has pictures (channels, height, width) of {found}; the policy expects {shape}. "
                "Set the camera or environment to that, or train a policy on such pictures: with policy.resize_shape it takes every "
                "size."
            )
        return observations

    def _windows(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The observations of a training batch as (B, T, ...), T = n_obs_steps.

        LeRobot's dataset drops the time axis of a video when T = 1, and the last axis of vectors of one number. Raises
        UserError for other shapes.
        """
        steps, shapes = self.config.n_obs_steps, self.config.observation_features()
        windows = {}
        for name, value in self._present(batch).items():
            shape = shapes[name]
            if name == OBS_TASK and value.ndim == 2:  # one sentence for all steps
                windows[name] = value
                continue
            if steps == 1 and value.ndim == len(shape) + 1:
                value = value[:, None]
            if shape == (1,) and value.ndim == 2:
                value = value[..., None]
            wrong_size = len(shape) == 1 and value.shape[-1:] != shape
            if value.ndim != len(shape) + 2 or value.shape[1] != steps or wrong_size:
                raise UserError(
                    f"'{name}' must come as {steps} observation step(s) of shape {shape} for each sample, and the batch "
                    f"has {tuple(value.shape[1:])}. Load it with the policy's own observation_delta_indices."
                )
            windows[name] = value
        return windows

    def _with_time(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations (B, T, ...); the current frame alone stands in for the earlier ones."""
        name, shape = next(iter(self.config.observation_features().items()))
        observations = self._observations(batch)
        if observations[name].ndim == len(shape) + 2:
            return batch
        return {
            name: value[:, None].expand(-1, self.config.n_obs_steps, *value.shape[1:])
            for name, value in observations.items()
        }

    def _remember(self, batch: dict[str, Tensor]) -> None:
        for name, value in self._observations(batch).items():
            frames = self._history.get(name)
            if frames is None or frames[-1].shape != value.shape:
                # The first frame stands in for the ones before it, as in the training windows.
                frames = deque(
                    [detached_fp32(value)] * self.config.n_obs_steps, maxlen=self.config.n_obs_steps
                )
                self._history[name] = frames
            frames.append(detached_fp32(value))

    # -- LeRobot's extras ------------------------------------------------------------------------------------------
    def _get_default_peft_targets(self) -> dict[str, Any]:
        """Every linear layer gets an adapter: they are small, and the encoder's see the new scene."""
        return {
            "target_modules": [name for name, layer in self.named_modules() if isinstance(layer, nn.Linear)]
        }

    def generate_model_card(
        self,
        dataset_repo_id: str,
        model_type: str,
        license: str | None,
        tags: list[str] | None,
        cfg: TrainPipelineConfig | None = None,
        dataset_meta: LeRobotDatasetMetadata | None = None,
    ) -> ModelCard:
        """The README.md that LeRobot's push_to_hub uploads."""
        from ebt_policy.model_card import model_card

        facts, training = "", {}
        if dataset_meta is not None:
            facts = f"{dataset_meta.total_episodes} episodes, {dataset_meta.total_frames} frames"
        if cfg is not None:
            training = {"steps": cfg.steps, "batch_size": cfg.batch_size, "seed": cfg.seed}
        return model_card(
            self.config,
            repo_id=self.config.repo_id,
            dataset=dataset_repo_id,
            license=license,
            tags=tags,
            data_facts=facts,
            training=training,
        )

    # -- loading ---------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: ChunkPolicyConfig | None = None, **kwargs: Any
    ) -> Self:
        """As LeRobot's, strict, and without fetching the weights that a camera encoder was once started from."""
        chosen: ChunkPolicyConfig = config or cls.config_class.from_pretrained(pretrained_name_or_path)
        if config is not None:
            check_features(config, pretrained_name_or_path)
        started_from, chosen.pretrained_backbone_weights = chosen.pretrained_backbone_weights, None
        policy = super().from_pretrained(pretrained_name_or_path, config=chosen, trained=True, **kwargs)
        chosen.pretrained_backbone_weights = started_from
        return policy

    @classmethod
    def _load_as_safetensor(
        cls, model: nn.Module, model_file: str, map_location: str, strict: bool
    ) -> nn.Module:
        """Strict whatever LeRobot asks: a policy with a missing or extra tensor is not the policy that was trained."""
        stored = load_file(model_file, device="cpu")
        expected = model.state_dict()
        missing, extra = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
        shapes = [k for k in expected.keys() & stored.keys() if expected[k].shape != stored[k].shape]
        if missing or extra or shapes:
            raise UserError(
                f"{Path(model_file)} does not fit its config.json: missing tensors {missing[:5]}, unknown tensors "
                f"{extra[:5]}, different shapes {sorted(shapes)[:5]}. Was it written by another version or architecture?"
            )
        model.load_state_dict(stored)
        return model.to(map_location)
