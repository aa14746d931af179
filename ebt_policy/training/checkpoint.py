"""Checkpoints in LeRobot's layout: an averaged policy that its commands load, and the state of an exact resume.

    checkpoints/<step>/pretrained_model/   averaged weights, configs, processors: what is evaluated and shipped
    checkpoints/<step>/training_state/     LeRobot's own files, and of ours raw_model.safetensors and trainer.json
    checkpoints/last                       link to the newest, as LeRobot makes it

Tensors are safetensors, everything else is JSON; nothing is pickled. A folder gets its name when it is complete.
Only the newest keeps its training state, which is three times as large as the policy.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lerobot.common import train_utils
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.optim.optimizers import AdamWConfig, load_optimizer_state_dict
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils import constants
from lerobot.utils.io_utils import load_json
from lerobot.utils.random_utils import load_rng_state, serialize_rng_state
from safetensors.torch import load_model, save_file, save_model
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ebt_policy.provenance import write_json
from ebt_policy.training.optimise import SpikeGuard
from ebt_policy.training.recipe import TrainRecipe
from ebt_policy.training.trained_on import EPISODES

RAW_MODEL = "raw_model.safetensors"
TRAINER = "trainer.json"


@dataclass
class Trainer:
    """Everything that a training step changes. `policy` holds the raw weights, `average` their moving average."""

    policy: PreTrainedPolicy
    average: PreTrainedPolicy
    optimizer: AdamW
    scheduler: LambdaLR
    guard: SpikeGuard = field(default_factory=SpikeGuard)
    step: int = 0
    seconds: float = 0.0


def last_checkpoint(run: Path) -> Path | None:
    """Newest checkpoint folder of a run, or None."""
    steps = [path for path in (Path(run) / constants.CHECKPOINTS_DIR).glob("*") if path.name.isdecimal()]
    return max(steps, key=lambda path: int(path.name), default=None)


def save_checkpoint(
    run: Path,
    trainer: Trainer,
    recipe: TrainRecipe,
    preprocessor: PolicyProcessorPipeline,
    postprocessor: PolicyProcessorPipeline,
    fingerprints: Sequence[str] = (),
) -> Path:
    """Writes checkpoints/<step> of the run folder, points `last` at it and returns it. Atomic.

    fingerprints: of the episodes trained on, see `trained_on.unseen_episodes`.
    """
    final = train_utils.get_step_checkpoint_dir(run, recipe.steps, trainer.step)
    if final.exists():
        return final
    partial = final.with_name(final.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        train_utils.save_checkpoint(
            partial,
            trainer.step,
            lerobot_config(recipe, trainer.average, run),
            trainer.average,
            trainer.optimizer,
            preprocessor=preprocessor,
            postprocessor=postprocessor,
            num_processes=1,
            batch_size=recipe.batch_size,
            optim_state_dict=_pack_optimizer(trainer),
        )
        if fingerprints:
            write_json(partial / constants.PRETRAINED_MODEL_DIR / EPISODES, sorted(fingerprints))
        _save_state(partial / constants.TRAINING_STATE_DIR, trainer)
        os.replace(partial, final)
    finally:  # on a full disk it would only take up space
        shutil.rmtree(partial, ignore_errors=True)
    link = final.with_name(constants.LAST_CHECKPOINT_LINK)
    temporary = link.with_name(link.name + ".tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(final.name)
    os.replace(temporary, link)
    for other in final.parent.glob(f"*/{constants.TRAINING_STATE_DIR}"):
        if other.parent.name.isdecimal() and other.parent != final:
            shutil.rmtree(other)
    return final


def _save_state(state: Path, trainer: Trainer) -> None:
    """What an exact resume needs beyond LeRobot's own files."""
    write_json(state / constants.SCHEDULER_STATE, _pack_scheduler(trainer.scheduler))
    # LeRobot rounds numpy's cached normal to single precision.
    cached = torch.tensor([np.random.get_state(legacy=False)["gauss"]], dtype=torch.float64)
    save_file(serialize_rng_state() | {"np_rng_cached_gaussian": cached}, state / constants.RNG_STATE)
    save_model(trainer.policy, str(state / RAW_MODEL))
    progress = {"step": trainer.step, "seconds": trainer.seconds, "guard": trainer.guard.state()}
    write_json(state / TRAINER, progress)


def load_checkpoint(checkpoint: Path, trainer: Trainer) -> None:
    """Puts everything back: both sets of weights, optimiser, schedule, guard, random generators.

    The recipe has to be the one of the run. Raises RuntimeError for a missing or an extra tensor.
    """
    state = checkpoint / constants.TRAINING_STATE_DIR
    load_model(trainer.policy, state / RAW_MODEL)
    load_model(trainer.average, checkpoint / constants.PRETRAINED_MODEL_DIR / "model.safetensors")
    _unpack_optimizer(trainer, load_optimizer_state_dict(state))
    _unpack_scheduler(trainer.scheduler, load_json(state / constants.SCHEDULER_STATE))
    progress = load_json(state / TRAINER)
    trainer.step, trainer.seconds = progress["step"], progress["seconds"]
    trainer.guard.restore(progress["guard"])
    load_rng_state(state)


def schedule(recipe: TrainRecipe) -> CosineAnnealingWithWarmupSchedulerConfig:
    """Linear warm-up, then a cosine to zero at the last step."""
    return CosineAnnealingWithWarmupSchedulerConfig(num_warmup_steps=recipe.warmup_steps)


def lerobot_config(recipe: TrainRecipe, policy: PreTrainedPolicy, run: Path) -> TrainPipelineConfig:
    """The recipe as `lerobot-train`'s config, for train_config.json; symmetry and averaging have no place there."""
    data, adamw = recipe.dataset, recipe.optimizer
    return TrainPipelineConfig(
        dataset=DatasetConfig(
            repo_id=data.repo_id,
            root=data.root,
            episodes=list(data.episodes) if data.episodes else None,
            eval_split=data.held_out_fraction,
            video_backend="pyav",  # torchcodec, the default, needs FFmpeg's libraries on the machine
        ),
        policy=policy.config,
        rename_map=dict(data.rename_map),
        tolerance_s=data.tolerance_s,
        output_dir=run,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        steps=recipe.steps,
        log_freq=recipe.log_every,
        save_freq=recipe.checkpoint_every,
        eval_steps=recipe.eval_every if data.held_out_fraction else 0,
        use_policy_training_preset=False,
        optimizer=AdamWConfig(
            lr=adamw.lr,
            betas=adamw.betas,
            eps=adamw.eps,
            weight_decay=adamw.weight_decay,
            grad_clip_norm=recipe.grad_clip,
        ),
        scheduler=schedule(recipe),
    )


# `lerobot-train --resume` builds one parameter group from policy.parameters(); ours are two (decayed or not). The
# files hold LeRobot's form, so that it can go on where we stopped.


def _positions(trainer: Trainer) -> list[int]:
    """For each parameter in the optimiser's order, its place in policy.parameters()."""
    place = {id(parameter): i for i, parameter in enumerate(trainer.policy.parameters())}
    return [place[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]]


def _pack_optimizer(trainer: Trainer) -> dict:
    own, place = trainer.optimizer.state_dict(), _positions(trainer)
    n_parameters = len(list(trainer.policy.parameters()))
    group = own["param_groups"][0] | {"params": list(range(n_parameters)), "fused": None}
    return {"state": {str(place[i]): s for i, s in own["state"].items()}, "param_groups": [group]}


def _unpack_optimizer(trainer: Trainer, packed: dict) -> None:
    groups = trainer.optimizer.state_dict()["param_groups"]
    for group in groups:
        group["lr"] = packed["param_groups"][0]["lr"]
    state = {
        i: packed["state"][str(p)] for i, p in enumerate(_positions(trainer)) if str(p) in packed["state"]
    }
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _pack_scheduler(scheduler: LambdaLR) -> dict:
    return {k: v[:1] if isinstance(v, list) else v for k, v in scheduler.state_dict().items()}


def _unpack_scheduler(scheduler: LambdaLR, packed: dict) -> None:
    n_groups = len(scheduler.optimizer.param_groups)
    scheduler.load_state_dict({k: v * n_groups if isinstance(v, list) else v for k, v in packed.items()})
