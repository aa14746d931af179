"""Training: composes dataset, policy, optimiser and log into a run. Decides nothing that the recipe could say."""

import copy
import dataclasses
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import draccus
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from draccus.utils import DecodingError, ParsingError
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_PREFIX, PRETRAINED_MODEL_DIR
from lerobot.utils.feature_utils import dataset_to_policy_features
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.utils.random_utils import set_seed

from ebt_policy.data.doctor import doctor, print_findings
from ebt_policy.data.goal_alignment import find_goal_alignment
from ebt_policy.data.symmetry import Symmetry, find_symmetry
from ebt_policy.data.windows import Windows, open_metadata, split_episodes
from ebt_policy.errors import UserError
from ebt_policy.model.parameter_groups import parameter_groups
from ebt_policy.provenance import run_record, write_atomic, write_json
from ebt_policy.training.checkpoint import (
    Trainer,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
    schedule,
)
from ebt_policy.training.loop import Loop
from ebt_policy.training.recipe import DatasetRecipe, TrainRecipe, did_you_mean, dump_recipe, load_recipe
from ebt_policy.training.run_log import RunLog
from ebt_policy.training.trained_on import SPLIT_SEED

RECIPE = "recipe.yaml"
RUN = "run.json"
# What may differ between a run and its continuation without making it another run.
FREE_ON_RESUME = {"log_every", "eval_every", "checkpoint_every", "threads", "device", "compile"}


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
    if main:
        _check_run(run, recipe, resume)
    accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(run)
    if checkpoint and int(checkpoint.name) >= recipe.steps:
        return run
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.set_float32_matmul_precision("high")
    set_seed(recipe.seed)

    config, windows, held_out = _data(recipe, accelerator.device)
    with _user_errors("Policy"):
        policy = make_policy(config, ds_meta=windows.meta)
    preprocessor, postprocessor = make_pre_post_processors(
        config,
        pretrained_path=str(checkpoint / PRETRAINED_MODEL_DIR) if checkpoint else None,
        preprocessor_overrides={"device_processor": {"device": accelerator.device.type}},
        dataset_stats=windows.stats,
    )
    trainer = _trainer(recipe, policy)
    if checkpoint:
        load_checkpoint(checkpoint, trainer)
    if accelerator.num_processes > 1:  # each process draws its own noise
        set_seed(recipe.seed + 1000 * trainer.step + accelerator.process_index)
    loop = Loop(recipe, trainer, accelerator, preprocessor, windows, held_out)

    def save() -> None:
        if main:
            save_checkpoint(run, trainer, recipe, preprocessor, postprocessor)
        accelerator.wait_for_everyone()

    if main:
        _start_run(run, recipe, trainer, windows, accelerator)
    log = RunLog(run, recipe.steps, recipe.batch_size, trainer.step, quiet=not main)
    with log, _stop_signals(accelerator.num_processes == 1) as stop:
        while trainer.step < recipe.steps and not stop.is_set():
            values = loop.step()
            log.step(trainer.step, values)
            step, last = trainer.step, trainer.step == recipe.steps
            evaluate = held_out is not None and (step % recipe.eval_every == 0 or last)
            if step % recipe.log_every == 0 or evaluate or last:
                extra = {"lr": loop.lr, "skipped": trainer.guard.skipped}
                log.row(
                    step,
                    trainer.seconds,
                    extra | ({"held_out_loss": loop.held_out_loss()} if evaluate else {}),
                )
            if step % recipe.checkpoint_every == 0:
                save()
        save()
    if stop.is_set():
        log.console.print(
            f"Stopped at step {trainer.step} and saved. The same command with --resume goes on."
        )
        raise KeyboardInterrupt
    return run


def _data(recipe: TrainRecipe, device: torch.device) -> tuple[PreTrainedConfig, Windows, Windows | None]:
    """The policy's config with its features set from the dataset, the windows to train on, and the held-out ones."""
    wanted = recipe.dataset
    meta = open_metadata(wanted.repo_id, wanted.root)
    config = policy_config(recipe, device.type)
    features = dataset_to_policy_features(meta.features)
    if not config.input_features:
        observations = [name for name in features if name.startswith(OBS_PREFIX)]
        for name in wanted.observations or ():
            if name not in observations:
                raise UserError(
                    f"Dataset '{wanted.repo_id}' has no observation '{name}'.{did_you_mean(name, observations)} "
                    f"It has: {', '.join(observations)}."
                )
        config.input_features = {name: features[name] for name in wanted.observations or observations}
    config.output_features = {name: f for name, f in features.items() if f.type is FeatureType.ACTION}
    with _user_errors("Policy"):
        config.validate_features()  # before minutes of decoding, not after
    modes = getattr(config, "normalization_mapping", {})
    if (
        "ENV" not in modes and "STATE" in modes
    ):  # LeRobot's own policies would see it as it comes, 0 to 512 on PushT
        modes["ENV"] = modes["STATE"]

    episodes = list(range(meta.total_episodes)) if wanted.episodes is None else list(wanted.episodes)
    train_part, held_out_part = (
        [episodes[i] for i in part]
        for part in split_episodes(len(episodes), wanted.held_out_fraction, SPLIT_SEED)
    )
    _examine(wanted, [*config.input_features, ACTION], episodes, held_out_part)
    with _user_errors("Recipe: dataset.symmetry"):
        symmetry = find_symmetry(wanted.symmetry)
    with _user_errors("Recipe: dataset.goal_alignment"):
        goal_alignment = find_goal_alignment(wanted.goal_alignment)

    def windows(part: list[int], symmetry: Symmetry | None) -> Windows:
        return Windows.from_lerobot(
            wanted.repo_id,
            wanted.root,
            features=[*config.input_features, ACTION],
            observation_delta_indices=config.observation_delta_indices,
            action_delta_indices=config.action_delta_indices,
            episodes=part,
            drop_n_last_frames=getattr(config, "drop_n_last_frames", 0),
            goal_alignment=goal_alignment,
            symmetry=symmetry,
            device=device,
            image_cache_gb=wanted.image_cache_gb,
            resize_shape=getattr(config, "resize_shape", None),  # LeRobot's diffusion has it too
        )

    return config, windows(train_part, symmetry), windows(held_out_part, None) if held_out_part else None


def _examine(wanted: DatasetRecipe, features: list[str], episodes: list[int], held_out: list[int]) -> None:
    """Prints what the doctor finds in the part that is used. Raises UserError where an error is among it."""
    findings = [
        finding
        for finding in doctor(wanted.repo_id, wanted.root, episodes=episodes, held_out=held_out)
        if finding.feature in features or not finding.feature.startswith(OBS_PREFIX)
    ]
    if findings:
        print_findings(findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise UserError(
            f"Dataset '{wanted.repo_id}' has {len(errors)} faults that training would fail on or learn; the first: "
            f"{errors[0].feature}: {errors[0].message} {errors[0].remedy}"
        )


def policy_config(recipe: TrainRecipe, device: str) -> PreTrainedConfig:
    """The registered config that the recipe's `policy` describes. Raises UserError for unknown types and fields."""
    register_third_party_plugins()  # ours among them
    known = PreTrainedConfig.get_known_choices()
    kind = recipe.policy["type"]
    if kind not in known:
        raise UserError(
            f"There is no policy type '{kind}'.{did_you_mean(kind, list(known))} Registered: {', '.join(sorted(known))}."
        )
    fields = [f.name for f in dataclasses.fields(known[kind])]
    for name in recipe.policy.keys() - {"type"}:
        if name not in fields:
            raise UserError(
                f"Policy '{kind}' has no option '{name}'.{did_you_mean(name, fields)} See `{known[kind].__name__}`."
            )
    with _user_errors("Policy"):
        return draccus.decode(PreTrainedConfig, {"push_to_hub": False} | recipe.policy | {"device": device})


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


def _check_run(run: Path, recipe: TrainRecipe, resume: bool) -> None:
    """Raises UserError unless the folder is new, or, to go on with, that of this recipe. Writes nothing."""
    if not resume:
        if run.exists() and any(run.iterdir()):
            raise UserError(f"'{run}' exists. Choose another folder, or go on with that run (resume).")
        return
    path = run / RECIPE
    if not path.exists():
        raise UserError(f"There is no run to go on with in '{run}': it has no {RECIPE}.")
    before, now = draccus.encode(load_recipe(path)), draccus.encode(recipe)
    changed = [key for key in now if key not in FREE_ON_RESUME and before[key] != now[key]]
    if changed:
        lines = "; ".join(f"{key} was {before[key]}, now {now[key]}" for key in changed)
        raise UserError(
            f"'{run}' was trained with another recipe: {lines}. Start a new run for the new recipe."
        )


def _start_run(
    run: Path, recipe: TrainRecipe, trainer: Trainer, windows: Windows, accelerator: Accelerator
) -> None:
    """recipe.yaml, and run.json: where the run comes from, and the same for each time it was taken up again."""
    run.mkdir(parents=True, exist_ok=True)
    write_atomic(run / RECIPE, dump_recipe(recipe))
    path = run / RUN
    record = run_record() | {
        "seed": recipe.seed,
        "from_step": trainer.step,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in trainer.policy.parameters()),
        "samples": len(windows),
        "episodes": len(windows.episode_index.unique()),
    }
    if path.exists():
        first = json.loads(path.read_text())
        record = first | {"resumed": [*first.get("resumed", []), record]}
    write_json(path, record)


@contextmanager
def _user_errors(what: str) -> Iterator[None]:
    """LeRobot's own checks of a config speak in the user's terms already, but as ValueError."""
    try:
        yield
    except (DecodingError, ValueError) as error:
        raise UserError(f"{what}: {error}") from error
    except ParsingError as error:  # behind it hides what the config's __post_init__ objects to
        raise UserError(f"{what}: {error.__cause__ or error}") from error


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
