"""Training throughput in samples per second compared with LeRobot: data loading alone, and whole training."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path

from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.utils.constants import ACTION, OBS_PREFIX
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError
from ebt_policy.provenance import write_json
from ebt_policy.training.optimise import sample_order
from ebt_policy.training.policy_setup import policy_config, settled_vision
from ebt_policy.training.recipe import TrainRecipe, load_recipe
from ebt_policy.training.run_log import read_metrics
from ebt_policy.training.train import train

WORKERS, PREFETCH = 4, 4  # lerobot-train's defaults
LOG_LINE = re.compile(r"step:\S+ .*updt_s:([\d.]+) data_s:([\d.]+)")


@dataclass(frozen=True)
class Throughput:
    """Rates in samples per second. Rates of training are None if it was not measured.

    data_lerobot: the faster of LeRobot's loader in the training process and in `workers` processes. training_ours_plain: ours
    without compilation and in single precision, like lerobot-train.
    """

    dataset: str
    policy: str
    batch_size: int
    workers: int
    cpus: int
    load_average: float  # before the run; well above 0: other processes were running
    data_ours: float
    data_lerobot_in_process: float
    data_lerobot_workers: float | None
    training_ours: float | None = None
    training_ours_plain: float | None = None
    training_lerobot: float | None = None

    @property
    def data_lerobot(self) -> float:
        return max(self.data_lerobot_in_process, self.data_lerobot_workers or 0.0)

    @property
    def data_ratio(self) -> float:
        return self.data_ours / self.data_lerobot

    @property
    def training_ratio(self) -> float | None:
        if self.training_ours is None or self.training_lerobot is None:
            return None
        return self.training_ours / self.training_lerobot


def throughput(
    recipe: TrainRecipe | str | Path = "pusht_keypoints",
    *,
    workers: int = WORKERS,
    batches: int = 16,
    steps: int = 40,
    training: bool = True,
    json_path: str | Path | None = None,
    console: Console | None = None,
) -> Throughput:
    """Measure the recipe's dataset, policy and batch size with both, one after the other on this machine.

    workers: LeRobot's loader processes, 0 for none. batches: number of timed batches of LeRobot's loader. steps: training
    steps; the first half (start-up, compilation, prefetched batches) is not counted. Prints a table, and writes fields and
    ratios to `json_path` if given.
    """
    recipe = recipe if isinstance(recipe, TrainRecipe) else load_recipe(recipe)
    console = console or Console()
    recipe = settled_vision(recipe, "cpu")
    config = policy_config(recipe, "cpu")
    load = os.getloadavg()[0]
    with console.status("timing the data paths"):
        result = Throughput(
            dataset=recipe.dataset.repo_id,
            policy=recipe.policy["type"],
            batch_size=recipe.batch_size,
            workers=workers,
            cpus=os.cpu_count() or 1,
            load_average=load,
            data_ours=_rate(_our_batches(recipe, config), recipe.batch_size, 10, 100 * batches),
            data_lerobot_in_process=_lerobot_rate(recipe, config, 0, batches),
            data_lerobot_workers=_lerobot_rate(recipe, config, workers, batches) if workers else None,
        )
    if training:
        plain = replace(recipe, compile=False, precision="fp32")
        result = replace(
            result,
            training_ours=_our_training_rate(recipe, steps),
            training_ours_plain=_our_training_rate(plain, steps),
        )
        with console.status("timing lerobot-train"):
            result = replace(result, training_lerobot=_lerobot_training_rate(recipe, workers, steps))
    _print(result, console)
    if json_path is not None:
        ratios = {"data_ratio": result.data_ratio, "training_ratio": result.training_ratio}
        write_json(Path(json_path), asdict(result) | ratios)
    return result


def _rate(batches: Iterable[object], batch_size: int, warm_up: int, timed: int) -> float:
    """Samples per second over `timed` batches after `warm_up` ones."""
    iterator = iter(batches)
    for _ in islice(iterator, warm_up):
        pass
    began = time.perf_counter()
    for _ in islice(iterator, timed):
        pass
    return timed * batch_size / (time.perf_counter() - began)


def _our_batches(recipe: TrainRecipe, config: PreTrainedConfig) -> Iterator[object]:
    wanted = recipe.dataset
    features = open_metadata(wanted.repo_id, wanted.root).features
    windows = Windows.from_lerobot(
        wanted.repo_id,
        wanted.root,
        features=[*(wanted.observations or [key for key in features if key.startswith(OBS_PREFIX)]), ACTION],
        observation_delta_indices=config.observation_delta_indices,
        action_delta_indices=config.action_delta_indices,
        image_cache_gb=wanted.image_cache_gb,
        resize_shape=getattr(config, "resize_shape", None),
    )
    return (windows.batch(sample_order(i, recipe.batch_size, len(windows), recipe.seed)) for i in count())


def _lerobot_rate(recipe: TrainRecipe, config: PreTrainedConfig, workers: int, batches: int) -> float:
    """Rate of LeRobot's loader, set up as in lerobot-train."""
    meta = open_metadata(recipe.dataset.repo_id, recipe.dataset.root)
    dataset = LeRobotDataset(
        meta.repo_id, meta.root, delta_timestamps=resolve_delta_timestamps(config, meta), return_uint8=True
    )
    borders = dataset.meta.episodes
    assert borders is not None  # loaded with the dataset
    loader = DataLoader(
        dataset,
        batch_size=recipe.batch_size,
        sampler=EpisodeAwareSampler(borders["dataset_from_index"], borders["dataset_to_index"], shuffle=True),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
    )
    # The first batch of each worker includes its start-up.
    endless = (batch for _ in count() for batch in loader)
    return _rate(endless, recipe.batch_size, max(1, workers), batches)


def _our_training_rate(recipe: TrainRecipe, steps: int) -> float:
    half = steps // 2
    recipe = replace(recipe, steps=2 * half, log_every=half, eval_every=2 * half, checkpoint_every=2 * half)
    with tempfile.TemporaryDirectory() as folder:
        first, last = read_metrics(train(recipe, Path(folder) / "run"))
    return half * recipe.batch_size / (last["seconds"] - first["seconds"])


def _lerobot_training_rate(recipe: TrainRecipe, workers: int, steps: int) -> float:
    """The rate that lerobot-train reports with the same dataset, policy, batch size and threads."""
    half = steps // 2
    with tempfile.TemporaryDirectory() as folder:
        options = {f"policy.{key}": value for key, value in recipe.policy.items()} | {
            "policy.push_to_hub": False,
            "policy.device": recipe.device or "cpu",
            "dataset.repo_id": recipe.dataset.repo_id,
            "dataset.root": recipe.dataset.root,
            "batch_size": recipe.batch_size,
            "num_workers": workers,
            "steps": 2 * half,
            "log_freq": half,
            "save_checkpoint": False,
            "wandb.enable": False,
            "output_dir": f"{folder}/run",
        }
        words = [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in options.items()
            if value is not None
        ]
        threads = {"OMP_NUM_THREADS": str(recipe.threads)} if recipe.threads else {}
        done = subprocess.run(
            [sys.executable, "-m", "lerobot.scripts.lerobot_train", *words],
            env=os.environ | threads,
            capture_output=True,
            text=True,
        )
    windows = LOG_LINE.findall(done.stderr + done.stdout)
    if done.returncode or len(windows) < 2:
        raise UserError("lerobot-train failed: " + "\n".join(done.stderr.strip().splitlines()[-8:]))
    update_s, data_s = map(float, windows[-1])
    return recipe.batch_size / (update_s + data_s)


def _print(result: Throughput, console: Console) -> None:
    table = Table("samples per second", "ours", "LeRobot", "ratio")
    within = f"{result.data_lerobot_in_process:,.0f} in process"
    workers = result.data_lerobot_workers
    both = within if workers is None else f"{within}, {workers:,.0f} with {result.workers} workers"
    table.add_row("data path", f"{result.data_ours:,.0f}", both, f"{result.data_ratio:,.0f}x")
    lerobot = result.training_lerobot
    for name, ours in (("training", result.training_ours), ("uncompiled, fp32", result.training_ours_plain)):
        if ours is not None and lerobot is not None:
            table.add_row(name, f"{ours:,.0f}", f"{lerobot:,.0f}", f"{ours / lerobot:,.1f}x")
    console.print(table)
    console.print(
        f"{result.dataset}, {result.policy}, batch {result.batch_size}, {result.cpus} CPUs, "
        f"load average before {result.load_average:.1f}"
    )
