"""Training: composes dataset, policy, optimiser and log into a run. Decides nothing that the recipe could say."""

import copy
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.rename_processor import RenameObservationsProcessorStep
from lerobot.utils.constants import PRETRAINED_MODEL_DIR
from lerobot.utils.random_utils import set_seed
from rich.console import Console

from ebt_policy.data.fingerprints import episode_fingerprints
from ebt_policy.errors import UserError
from ebt_policy.inference.untrusted import check_files
from ebt_policy.model.parameter_groups import parameter_groups
from ebt_policy.provenance import sha256
from ebt_policy.training.checkpoint import (
    Trainer,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
    schedule,
)
from ebt_policy.training.corrections import Mixture
from ebt_policy.training.data_setup import TrainingData, prepare_data
from ebt_policy.training.loop import Loop
from ebt_policy.training.policy_setup import changed_options, pretrained_path, settled_vision, user_errors
from ebt_policy.training.recipe import TrainRecipe
from ebt_policy.training.run_folder import check_run, disk_errors, locked, start_run, started_recipe
from ebt_policy.training.run_log import RunLog


def train(recipe: TrainRecipe, output: str | Path, *, resume: bool = False) -> Path:
    """Trains into the folder `output` and returns it; its checkpoints/last/pretrained_model is the policy.

    With `resume` it goes on from the last checkpoint: on one process, without compilation, the result equals that of
    an uninterrupted run bit for bit. Ctrl-C or SIGTERM finishes the step, saves and raises KeyboardInterrupt.
    Raises UserError for anything in the recipe, the dataset or the folder that the user can put right.
    """
    run = Path(output)
    accelerator = Accelerator(
        cpu=recipe.device == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if recipe.device and accelerator.device.type != torch.device(recipe.device).type:
        raise UserError(
            f"Device '{recipe.device}' was asked for, but this machine offers '{accelerator.device}'."
        )
    main = accelerator.is_main_process
    asked, before = recipe, started_recipe(run) if resume else None
    recipe = settled_vision(recipe, accelerator.device.type, before)
    extended = check_run(run, recipe, resume) if main else None
    accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(run)
    if checkpoint and int(checkpoint.name) >= recipe.steps:
        return run
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.set_float32_matmul_precision("high")
    set_seed(recipe.seed)
    if resume:
        with locked(run) if main else nullcontext():
            return _train(run, recipe, accelerator, checkpoint, extended)
    data = prepare_data(
        asked, accelerator.device
    )  # before the folder is made: a mistake leaves nothing behind
    with locked(run) if main else nullcontext():
        if main:
            check_run(run, recipe, resume)  # another process may have been quicker
        return _train(run, recipe, accelerator, None, None, data)


def _train(
    run: Path,
    recipe: TrainRecipe,
    accelerator: Accelerator,
    checkpoint: Path | None,
    extended: int | None,
    data: TrainingData | None = None,
) -> Path:
    """The training itself, in a folder that belongs to this process. extended: steps planned before, if fewer."""
    main, console = accelerator.is_main_process, Console()
    data = data or prepare_data(recipe, accelerator.device)
    policy = _policy(recipe, data, console if main else None)
    preprocessor, postprocessor = make_pre_post_processors(
        data.config,
        pretrained_path=str(_normalised_as(recipe, checkpoint) or "") or None,
        preprocessor_overrides={"device_processor": {"device": accelerator.device.type}},
        dataset_stats=data.statistics,
    )
    _set_rename_map(preprocessor, data.rename_map)
    trainer = _trainer(recipe, policy)
    if checkpoint:
        load_checkpoint(checkpoint, trainer)
    if extended:
        _extend_schedule(recipe, trainer, extended, console if main else None)
    if accelerator.num_processes > 1:  # each process draws its own noise
        set_seed(recipe.seed + 1000 * trainer.step + accelerator.process_index)
    loop = Loop(recipe, trainer, accelerator, preprocessor, data.samples(recipe), data.held_out)

    used = [int(episode) for episode in data.windows.episode_index.unique()]
    marks = episode_fingerprints(recipe.dataset.repo_id, recipe.dataset.root, used) if main else {}
    fingerprints = [*marks.values(), *(mark for one in data.lineage for mark in one["fingerprints"])]

    # LeRobot, should it resume this, knows no episodes_per_task.
    chosen = replace(recipe, dataset=replace(recipe.dataset, episodes=data.episodes))

    def save() -> None:
        if main:
            save_checkpoint(run, trainer, chosen, preprocessor, postprocessor, fingerprints)
        accelerator.wait_for_everyone()

    with disk_errors(run):
        if main:
            record = _origin(recipe, trainer, data, accelerator)
            start_run(run, recipe, record)
            console.print(_summary(record, loop), highlight=False, soft_wrap=True)
        log = RunLog(run, recipe, trainer.step, quiet=not main, faster=_faster(recipe, data, accelerator))
        with log, _stop_signals(accelerator.num_processes == 1) as stop:
            while trainer.step < recipe.steps and not stop.is_set():
                values = loop.step()
                log.step(trainer.step, values)
                step, last = trainer.step, trainer.step == recipe.steps
                evaluate = data.held_out is not None and (step % recipe.eval_every == 0 or last)
                if step % recipe.log_every == 0 or evaluate or last:
                    extra = {"lr": loop.lr, "skipped": trainer.guard.skipped}
                    held_out_loss = {"held_out_loss": loop.held_out_loss()} if evaluate else {}
                    log.row(step, trainer.seconds, extra | held_out_loss)
                if step % recipe.checkpoint_every == 0:
                    save()
            save()
    if stop.is_set():
        console.print(f"Stopped at step {trainer.step} and saved. The same command with --resume continues.")
        raise KeyboardInterrupt
    return run


def _policy(recipe: TrainRecipe, data: TrainingData, console: Console | None) -> PreTrainedPolicy:
    """A new policy, or the checkpoint that is fine-tuned. Raises UserError where its weights do not fit the recipe."""
    changed = changed_options(recipe, data.config)
    if console and data.config.pretrained_path:
        differences = ", ".join(changed) or "none"
        console.print(
            f"Fine-tuning {data.config.pretrained_path}. Options that the recipe changes: {differences}.",
            soft_wrap=True,
        )
    try:
        with user_errors("Policy"):
            return make_policy(data.config, ds_meta=data.windows.meta, rename_map=data.rename_map)
    except (UserError, RuntimeError) as error:
        if not changed:
            raise
        raise UserError(
            f"The checkpoint's weights do not fit the recipe, which changes {', '.join(changed)}. Leave out of the "
            f"recipe what the checkpoint decides. Cause: {error}"
        ) from error


def _normalised_as(recipe: TrainRecipe, checkpoint: Path | None) -> Path | None:
    """The checkpoint whose normalisation holds: of this run, or of the policy that corrections improve; None for the data's own.

    With the statistics of other data the same numbers would mean other positions to the weights that are there.
    """
    if checkpoint:
        check_files(checkpoint / PRETRAINED_MODEL_DIR)  # the run may come from elsewhere
        return checkpoint / PRETRAINED_MODEL_DIR
    return pretrained_path(recipe) if recipe.corrections else None


def _set_rename_map(preprocessor: PolicyProcessorPipeline, rename_map: dict[str, str]) -> None:
    """The preprocessor renames the dataset's observations, in training and wherever LeRobot uses the policy."""
    steps: Sequence[Any] = preprocessor.steps  # LeRobot's registry hides the types of its steps
    for step in steps:
        if isinstance(step, RenameObservationsProcessorStep):
            step.rename_map = dict(rename_map)


def _extend_schedule(recipe: TrainRecipe, trainer: Trainer, before: int, console: Console | None) -> None:
    """More steps stretch the cosine: the learning rate continues on the new curve, from the next step on."""
    old = trainer.optimizer.param_groups[0]["lr"]
    scheduler = trainer.scheduler
    scheduler._last_lr = [
        base * factor(trainer.step)
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, lr in zip(trainer.optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = lr
    if console:
        console.print(
            f"Extended from {before} to {recipe.steps} steps: from step {trainer.step} on the learning rate follows the "
            f"longer cosine, {scheduler._last_lr[0]:.2g} now (it was {old:.2g}) and zero at step {recipe.steps}.",
            soft_wrap=True,
        )


def _origin(
    recipe: TrainRecipe, trainer: Trainer, data: TrainingData, accelerator: Accelerator
) -> dict[str, object]:
    """What run.json says of a start or resume."""
    lineage = {}
    if (parent := pretrained_path(recipe)) and data.lineage:
        lineage = {
            "lineage": {
                "parent": str(parent),
                "parent_sha256": sha256(parent / "model.safetensors"),
                "corrections": list(data.lineage),
            }
        }
    return {
        "seed": recipe.seed,
        "from_step": trainer.step,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in trainer.policy.parameters()),
        "samples": len(data.windows),
        "episodes": len(data.windows.episode_index.unique()),
        **lineage,
    }


def _summary(record: Mapping[str, object], loop: Loop) -> str:
    """One line at the start, so that a first step that takes long is no surprise."""
    corrections = ""
    if isinstance(loop.windows, Mixture):
        count = sum(len(part) for part in loop.windows.corrections)
        corrections = f" and {count:,} of corrections, {loop.windows.share:.0%} of each batch"
    return (
        f"Training {record['parameters']:,} parameters on {record['samples']:,} samples of {record['episodes']} episodes{corrections} "
        f"({record['device']}, {'bf16' if loop.bf16 else 'fp32'}), {loop.recipe.batch_size} samples a step."
    )


def _faster(recipe: TrainRecipe, data: TrainingData, accelerator: Accelerator) -> str:
    """What would shorten a training that takes hours, most effective first."""
    vision = getattr(data.config, "vision", None) if data.config.image_features else None
    cached = vision == "frozen" and recipe.dataset.feature_variants > 0
    ways = []
    if accelerator.device.type == "cpu":
        if vision and not cached:
            ways.append(
                "policy.vision=frozen with dataset.feature_variants=4 (maps of the pictures are computed once)"
            )
        ways.append("a GPU")
    if vision:
        ways.append("smaller pictures (policy.resize_shape and policy.crop_shape)")
    if not recipe.compile:
        ways.append("compile=true")
    return "; ".join([*ways, "fewer steps"])


def _trainer(recipe: TrainRecipe, policy: PreTrainedPolicy) -> Trainer:
    adamw = recipe.optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(policy, adamw.weight_decay),
        lr=adamw.lr,
        betas=adamw.betas,
        eps=adamw.eps,
        fused=True,
    )
    average = copy.deepcopy(policy).requires_grad_(False).eval()
    return Trainer(policy, average, optimizer, schedule(recipe).build(optimizer, recipe.steps))


@contextmanager
def _stop_signals(enabled: bool) -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one acts as it would without us."""
    stop = threading.Event()
    enabled = enabled and threading.current_thread() is threading.main_thread()
    before = (
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if enabled else {}
    )

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(*_: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()
