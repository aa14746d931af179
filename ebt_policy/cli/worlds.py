"""Commands of `ebt-policy` about worlds and demonstrations: envs, collect, convert."""

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ebt_policy.errors import UserError


def envs(names: Positional[tuple[str, ...]] = (), seconds: float = 3.0, json: Path | None = None) -> None:
    """The environments that there are, and how many ticks a second each makes here.

    Args:
        names: Only these (default: all).
        seconds: CPU time for each.
        json: Where to write the figures.
    """
    from ebt_policy.envs.overview import overview

    overview(names, seconds, json)


def collect(
    task: Positional[str],
    episodes: int = 200,
    output: Path | None = None,
    repo_id: str | None = None,
    seed: int = 0,
    disturbance: float = 0.1,
    cameras: tuple[str, ...] = (),
    image_size: tuple[int, int] = (96, 96),
    processes: int | None = None,
) -> None:
    """Demonstrations of a simulated task by its scripted expert, as a LeRobot dataset. Only successes are kept.

    The same seed gives the same dataset, however many processes and interruptions it took.

    Args:
        task: An environment with an expert, e.g. robosuite_lift.
        episodes: Successful demonstrations wanted.
        output: A new folder (default: where LeRobot looks for repo_id).
        repo_id: Name of the dataset (default: local/TASK).
        seed: Seed of the first attempt; the others count up from it.
        disturbance: Noise on what the expert does (not on what is recorded), in parts of the action's size: the
            demonstrations then show corrections.
        cameras: Names of cameras whose pictures are kept as videos (default: none), e.g. agentview
        image_size: Height and width of the pictures, pixels.
        processes: Worker processes (default: one for each core).
    """
    from ebt_policy.envs.collect import Collection
    from ebt_policy.envs.collect import collect as run
    from ebt_policy.eval.rollout.parallel import usable_cores

    if episodes < 1:
        raise UserError(f"episodes must be at least 1, found {episodes}.")
    name = repo_id or f"local/{task}"
    folder = output or _lerobot_folder(name)
    wanted = Collection(task, episodes, seed, disturbance, cameras, image_size)
    record = run(wanted, folder, name, processes or usable_cores())
    print(f"{record['successes']} demonstrations of {record['attempts']} attempts: {folder} (repo id {name})")


def convert(
    format: Positional[Literal["robomimic"]],
    file: Positional[Path],
    output: Path | None = None,
    repo_id: str | None = None,
    env: str | None = None,
    keep_failed: bool = False,
) -> None:
    """Demonstrations in another format as a LeRobot dataset. Only those that end in success are kept.

    robomimic: HDF5 files of robomimic and robosuite. Recorded states are replayed in the simulator where the file
    lacks observations, and to see how it ends. Selections (mask/...) go to meta/filter_keys.json; train and valid
    become splits where they share out all demonstrations.

    Args:
        format: What the file is.
        file: Demonstrations, e.g. robomimic's low_dim_v15.hdf5 or demo_v15.hdf5
        output: A new folder (default: where LeRobot looks for repo_id).
        repo_id: Name of the dataset (default: local/FILE without its ending).
        env: The environment whose features are wanted, for a real robot or a task by another name; the file must
            then hold the observations (default: the file's own).
        keep_failed: Keep demonstrations that do not end in success.
    """
    from ebt_policy.envs.convert.robomimic import convert as run

    name = repo_id or f"local/{file.stem}"
    folder = output or _lerobot_folder(name)
    record = run(file, folder, name, env=env, keep_failed=keep_failed)
    for warning in record["warnings"]:
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"{len(record['kept'])} of {record['attempted']} demonstrations: {folder} (repo id {name})")


def _lerobot_folder(repo_id: str) -> Path:
    """Where LeRobot looks for a dataset."""
    from lerobot.utils.constants import HF_LEROBOT_HOME

    return HF_LEROBOT_HOME / repo_id
