"""Any LeRobot policy behind one call: raw observations in, raw actions and a Trace out.

Legend: B episodes deciding together, T observation steps, H horizon, A action dimension.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ebt_policy.errors import UserError
from ebt_policy.inference.checkpoint_features import fits
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.language.encoders import TASK
from ebt_policy.model.noise import Noise
from ebt_policy.model.overlap import Overlap
from ebt_policy.model.trace import Decision, Trace
from ebt_policy.provenance import sha256

if TYPE_CHECKING:
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.configs.types import PolicyFeature
    from lerobot.policies.pretrained import PreTrainedPolicy

Decide = Callable[[dict[str, Tensor], Noise, Tensor | None, Overlap | None], Decision]


@dataclasses.dataclass
class RunnerDecision:
    """actions (B, n_action_steps, A) in the env's units; chunk (B, H, A) normalised, row 0 for the current
    tick.

    state (B, S): the observed proprioceptive state, normalised; None if the policy has none. ended (B,): episodes that end after
    them, for a human to take over. observations: normalised (B, T, ...), and encoded (B, D): what the policy's encoder made of
    them, for whoever reads them again; None where there is none.
    """

    actions: np.ndarray
    chunk: np.ndarray
    trace: Trace
    state: np.ndarray | None = None
    ended: np.ndarray | None = None
    observations: dict[str, Tensor] | None = None
    encoded: Tensor | None = None


class Runner:
    """A loaded policy with its processors. Build one with `load_runner`."""

    def __init__(
        self,
        policy: PreTrainedPolicy,
        preprocessor: Callable,
        postprocessor: Callable,
        *,
        spec: str = "",
        max_evaluations: int | None = None,
        checkpoint_sha256: str = "",
        task: str = "",
        saved_config: PreTrainedConfig | None = None,
    ) -> None:
        """task: the sentence of every decision; "": that of the observations. saved_config: the checkpoint's, where options were
        changed since.

        A policy that was fine-tuned with a rename map takes the names of its data: those are in `needs` {name: feature}.
        """
        self.policy = policy
        self.config: Any = (
            policy.config
        )  # LeRobot's own base class declares neither chunk nor observation steps
        self.saved_config: Any = saved_config or policy.config
        self.device = str(policy.config.device)
        self.checkpoint_sha256 = checkpoint_sha256
        self.max_evaluations = max_evaluations
        self.n_obs_steps: int = self.config.n_obs_steps
        self.n_action_steps: int = self.config.n_action_steps
        self.real_time: bool = hasattr(policy, "decide") and policy.supports_rtc()  # may be given an overlap
        self._spec, self.task = spec, task
        self.sentences: list[str] = getattr(self.config, "task_sentences", None) or []
        if task and not self.sentences:
            raise UserError(
                f"This policy is not told its task, so it cannot be asked to '{task}'. Leave --task out, or train a policy on data "
                "of several tasks (docs/many_tasks.md)."
            )
        self.preprocessor, self._postprocessor = preprocessor, postprocessor
        self._renames = _rename_map(preprocessor)  # data's name -> policy's
        self._in_data = {new: old for old, new in self._renames.items()}
        self._inputs: dict[str, PolicyFeature] = self.config.input_features or {}
        self.needs = {self._in_data.get(name, name): feature for name, feature in self._inputs.items()}
        # LeRobot's diffusion resizes too, but stacks its cameras before.
        self._resize_shape = getattr(self.config, "resize_shape", None) if hasattr(policy, "decide") else None
        self._decide = _adapter(policy, max_evaluations)

    def decide(
        self,
        observations: Mapping[str, np.ndarray],
        noise: Noise,
        previous: np.ndarray | None = None,
        overlap: Overlap | None = None,
    ) -> RunnerDecision:
        """Decides for B episodes together; no row depends on another.

        observations: raw values (B, T, ...) with T = n_obs_steps, oldest first; for a policy that is told its task also `task`,
        sentences (B,), unless the Runner has one. noise: one generator per row.
        previous: (B, H, A) normalised chunks of the last decision, already shifted to the current tick, or
        None. overlap: with them, for real-time chunking. Raises UserError when the observations do not fit the policy or are not
        finite, when an action is not finite, and when the policy has no real-time chunking.
        """
        batch = self.normalised(observations)
        shifted = None if previous is None else torch.from_numpy(previous).to(self.device)
        decision = self._decide(batch, noise, shifted, overlap)
        chunk = decision.chunk.float()
        if chunk.shape[1] < self.n_action_steps:
            raise UserError(
                f"The policy plans {chunk.shape[1]} ticks ahead; n_action_steps is {self.n_action_steps}. "
                "Lower it."
            )
        actions = self.actions(chunk[:, : self.n_action_steps])
        if not np.isfinite(actions).all():
            raise UserError(
                "The policy returned an action that is not a finite number, so nothing was executed. The "
                "checkpoint or its normalisation statistics are damaged: look at the training log, and check "
                "the data with `ebt-policy doctor`."
            )
        state = batch.get("observation.state")
        return RunnerDecision(
            actions=actions,
            chunk=chunk.cpu().numpy().copy(),  # without a normaliser the actions are a view of it
            trace=decision.trace,
            state=None if state is None else state[:, -1].cpu().numpy(),
            observations=batch,
            encoded=decision.encoded,
        )

    def actions(self, chunk: Tensor) -> np.ndarray:
        """Un-normalises chunks (B, any, A) to the environment's units."""
        return self._postprocessor(chunk).cpu().numpy()

    def normalised(self, observations: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Normalises raw observations (B, T, ...) for the policy. Raises UserError as `decide` does."""
        self._check(observations)
        wanted: dict[str, Any] = {  # the preprocessor renames them
            self._in_data.get(name, name): torch.from_numpy(observations[self.name_in(observations, name)])
            for name in self._inputs
        }
        if self.sentences:
            given = np.ravel(observations[TASK]).tolist() if TASK in observations else []
            wanted[TASK] = [self.task] if self.task else given
        return {k: v for k, v in self.preprocessor(wanted).items() if k.startswith("observation.")}

    def name_in(self, given: Container[str], name: str) -> str:
        """What the policy's input `name` is called where the names `given` exist: as in its data, else as the policy calls it, unless
        that is the name of something else in its data."""
        in_data = self._in_data.get(name, name)
        return name if in_data not in given and name in given and name not in self._renames else in_data

    def describe(self) -> dict[str, Any]:
        """Policy, options and checkpoint as JSON values, for reports and file metadata."""
        return {
            "policy": self._spec,
            "type": self.config.type,
            "parameters": sum(p.numel() for p in self.policy.parameters()),
            "n_obs_steps": self.n_obs_steps,
            "n_action_steps": self.n_action_steps,
            "max_evaluations": self.max_evaluations or getattr(self.config, "max_evaluations", None),
            "device": self.device,
            "checkpoint_sha256": self.checkpoint_sha256,
        } | ({"task": self.task} if self.task else {})

    def _compared(self, observations: Mapping[str, np.ndarray]) -> str:
        """The features of both sides, as the end of an error message."""
        given = ", ".join(
            f"{name} {value.shape[2:]}" for name, value in sorted(observations.items()) if name != TASK
        )
        wanted = ", ".join(f"{name} {tuple(f.shape)}" for name, f in sorted(self.needs.items()))
        return (
            f"The environment gives {given}; the policy was trained on {wanted}. Choose the environment that it was trained "
            "for, or rename the features."
        )

    def _check(self, observations: Mapping[str, np.ndarray]) -> None:
        for policys, feature in self._inputs.items():
            name = self.name_in(observations, policys)
            if name not in observations:
                raise UserError(f"The environment does not give '{name}'. {self._compared(observations)}")
            found, expected = observations[name].shape[2:], tuple(feature.shape)
            if not fits(expected, found, self._resize_shape):
                raise UserError(
                    f"The environment gives '{name}' of shape {found}; the policy expects {expected}. "
                    f"{self._compared(observations)}"
                )
            broken = np.asarray(~np.isfinite(observations[name]).reshape(len(observations[name]), -1).all(1))
            if broken.any():
                raise UserError(
                    f"Observation feature '{name}' holds NaN or infinity (rows {np.flatnonzero(broken).tolist()} of "
                    f"{len(broken)}); expected finite numbers. Look at the sensor or environment that it comes from."
                )


def load_runner(
    spec: str | Path,
    max_evaluations: int | None = None,
    n_action_steps: int | None = None,
    device: str = "cpu",
    overrides: Mapping[str, Any] | None = None,
    task: str = "",
) -> Runner:
    """Load a policy. spec: see `find_checkpoint`.

    max_evaluations: budget of trunk evaluations per decision (for LeRobot's diffusion, its denoising steps).
    n_action_steps: ticks executed per decision, when not the trained setting. overrides: config fields
    changed before the policy is built; for diffusion policies, LeRobot's among them, `sampler` = "ddpm:100"
    or "ddim:10" sets sampler and steps. task: the sentence of every decision, see `Runner`. Weights load strictly. Raises UserError for whatever the user can
    correct.
    """
    from draccus.utils import DecodingError, ParsingError
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    # LeRobot knows our policy types from here on.
    import ebt_policy.configuration_ebt
    import ebt_policy.configuration_matched_baseline  # noqa: F401
    from ebt_policy.configuration_chunk import ChunkPolicyConfig
    from ebt_policy.processor_ebt import widen_loaded

    if max_evaluations is not None and max_evaluations < 1:
        raise UserError(f"max_evaluations must be at least 1, found {max_evaluations}.")
    folder = find_checkpoint(spec)
    try:
        config = PreTrainedConfig.from_pretrained(folder)
    except (ValueError, DecodingError, ParsingError) as error:
        raise UserError(
            f"{folder}/config.json cannot be read: {error} If a newer version saved it, install that one."
        ) from error
    changes = dict(overrides or {}) | {"device": device}
    if n_action_steps is not None:
        changes["n_action_steps"] = n_action_steps
    saved, config = config, _override(config, changes, max_evaluations)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # LeRobot prints here
            policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
    except RuntimeError as error:
        raise UserError(f"The weights in {folder} do not fit the policy's config: {error}") from error
    preprocessor, postprocessor = make_pre_post_processors(
        config, pretrained_path=str(folder), preprocessor_overrides={"device_processor": {"device": device}}
    )
    if isinstance(config, ChunkPolicyConfig):
        widen_loaded(preprocessor, postprocessor)
    return Runner(
        policy.to(device).eval(),
        preprocessor,
        postprocessor,
        spec=str(spec),
        max_evaluations=max_evaluations,
        checkpoint_sha256=sha256(folder / "model.safetensors"),
        task=task,
        saved_config=saved,
    )


def _rename_map(preprocessor: Any) -> dict[str, str]:
    """Of the preprocessor's step that renames observations; empty where it has none."""
    maps = [step.rename_map for step in getattr(preprocessor, "steps", ()) if hasattr(step, "rename_map")]
    return maps[0] if maps else {}


def _override(config: Any, changes: dict[str, Any], max_evaluations: int | None) -> PreTrainedConfig:
    known = {field.name for field in dataclasses.fields(config)}
    if ":" in str(changes.get("sampler", "")) and "num_inference_steps" in known:
        name, _, steps = changes.pop("sampler").partition(":")
        if name not in ("ddpm", "ddim") or not steps.isdigit():
            raise UserError(f"sampler is '{name}:{steps}'; expected for example 'ddpm:100' or 'ddim:10'.")
        changes |= {"sampler": name} if "sampler" in known else {"noise_scheduler_type": name.upper()}
        changes["num_inference_steps"] = int(steps)
    if config.type == "diffusion" and max_evaluations is not None:
        trained = (
            changes.get("num_inference_steps") or config.num_inference_steps or config.num_train_timesteps
        )
        changes["num_inference_steps"] = min(trained, max_evaluations)
    if changes.get("temporal_ensemble_coeff", getattr(config, "temporal_ensemble_coeff", None)) is not None:
        raise UserError(
            "Temporal ensembling averages over an episode's plans, which LeRobot keeps inside the policy; it would be ignored "
            "here. Evaluate with lerobot-eval --policy.temporal_ensemble_coeff=0.01 --policy.n_action_steps=1, or without: "
            "--set temporal_ensemble_coeff=null."
        )
    if config.type in ("act", "diffusion", "vqbet"):
        changes["pretrained_backbone_weights"] = None  # the checkpoint replaces them: nothing to download
    for name in changes:
        if name not in known:
            close = ", ".join(difflib.get_close_matches(name, known)) or ", ".join(sorted(known))
            raise UserError(f"A '{config.type}' policy has no option '{name}'. Did you mean: {close}?")
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:
        raise UserError(f"The '{config.type}' policy rejects these options: {error}") from error


def _adapter(policy: Any, max_evaluations: int | None) -> Decide:
    """A function that decides with this policy. LeRobot's policies are called so that rows stay independent."""
    if hasattr(policy, "decide"):
        return lambda batch, noise, previous, overlap: policy.decide(
            batch, noise=noise, previous=previous, max_evaluations=max_evaluations, overlap=overlap
        )
    theirs = _of_lerobot(policy, max_evaluations)

    def decide(
        batch: dict[str, Tensor], noise: Noise, previous: Tensor | None, overlap: Overlap | None
    ) -> Decision:
        if overlap is not None:
            raise UserError(
                f"A '{policy.config.type}' policy has no real-time chunking here: use one of type 'ebt', or blend its plans."
            )
        return theirs(batch, noise)

    return decide


def _of_lerobot(policy: Any, max_evaluations: int | None) -> Callable[[dict[str, Tensor], Noise], Decision]:
    if policy.config.type == "diffusion":
        return lambda batch, noise: _timed(
            lambda: _diffusion_chunk(policy, batch, noise), policy.diffusion.num_inference_steps
        )
    if policy.config.type == "act":
        return lambda batch, noise: _timed(lambda: policy.predict_action_chunk(_current(batch)), 1)
    if max_evaluations is not None:
        raise UserError(f"A '{policy.config.type}' policy has no budget of evaluations to limit.")
    return lambda batch, noise: _timed(lambda: _any_chunk(policy, batch, noise), 1)


@torch.no_grad()
def _timed(predict: Callable[[], Tensor], evaluations: int) -> Decision:
    begin = time.perf_counter()
    chunk = predict().cpu()  # also waits for the device
    return Decision(chunk, Trace.without_steps(len(chunk), evaluations, time.perf_counter() - begin))


def _diffusion_chunk(policy: Any, batch: dict[str, Tensor], noise: Noise) -> Tensor:
    """LeRobot's diffusion, one generator per row; its plan, which begins in the past, is cut."""
    config, model = policy.config, policy.diffusion
    if config.image_features:
        batch = batch | {"observation.images": torch.stack([batch[k] for k in config.image_features], dim=-4)}
    start = noise.normal((config.horizon, config.action_feature.shape[0])).to(config.device)
    plan = model.conditional_sample(
        len(start),
        global_cond=model._prepare_global_conditioning(batch),
        generator=noise.generators,
        noise=start,
    )
    return plan[:, config.n_obs_steps - 1 :]


def _any_chunk(policy: Any, batch: dict[str, Tensor], noise: Noise) -> Tensor:
    """Any other policy draws from the global generator: row by row, under a seed from the row's own noise."""
    chunks = []
    for i, generator in enumerate(noise.generators):
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            policy.reset()
            row = {k: v[i : i + 1] for k, v in batch.items()}
            chunks.append(
                policy.predict_action_chunk(row if policy.config.n_obs_steps > 1 else _current(row))
            )
    return torch.cat(chunks)


def _current(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The newest observation without a time dimension: what policies with one observation step expect."""
    return {name: values[:, -1] for name, values in batch.items()}
