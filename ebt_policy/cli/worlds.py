"""Commands of `ebt-policy` about worlds and demonstrations: envs, collect, convert, corrections."""

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ebt_policy.errors import UserError


def envs(names: Positional[tuple[str, ...]] = (), seconds: float = 3.0, json: Path | None = None) -> None:
    """List the environments, and measure how fast each runs on this machine.

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
    """Record a scripted expert on a simulated task as a LeRobot dataset. Only successful episodes are kept.

    The same seed gives the same dataset, with any number of processes and after any interruption.

    Args:
        task: An environment with an expert, e.g. robosuite_lift.
        episodes: Number of successful demonstrations to record, of each task where the environment plays several.
        output: Folder for the dataset; it must not exist (default: repo_id in LeRobot's cache).
        repo_id: Name of the dataset (default: local/TASK).
        seed: Seed of the first attempt; each further attempt adds one.
        disturbance: Noise added to the executed (not to the recorded) actions, as a fraction of their size, so that the
            demonstrations contain corrections.
        cameras: Names of cameras to record as videos (default: none), e.g. agentview
        image_size: Height and width of the pictures in pixels.
        processes: Number of worker processes (default: one for each core).
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
    format: Positional[Literal["robomimic", "adroit"]],
    file: Positional[Path],
    output: Path | None = None,
    repo_id: str | None = None,
    env: str | None = None,
    keep_failed: bool = False,
    places: int = 0,
) -> None:
    """Convert demonstrations to a LeRobot dataset. Only those that end in success are kept.

    robomimic: HDF5 files of robomimic and robosuite. The recorded states are replayed in the simulator, to see whether the
    task is solved and to add observations that the file lacks. Filter keys (mask/...) are written to meta/filter_keys.json;
    train and valid become splits if together they contain all demonstrations.

    adroit: the .npz file of people's demonstrations of Adroit Door. Their actions are replayed in the simulator.

    Args:
        format: Format of the file.
        file: The file, e.g. robomimic's low_dim_v15.hdf5 or demo_v15.hdf5
        output: Folder for the dataset; it must not exist (default: repo_id in LeRobot's cache).
        repo_id: Name of the dataset (default: local/ and the file's name without its ending).
        env: Environment whose features to write (default: the one named in the file). For data of a real robot or of a
            task with another name; the file must then contain the observations.
        keep_failed: Keep demonstrations that do not end in success.
        places: adroit: replay each demonstration with the door at so many other places too, up to 3 cm away, and keep what
            opens it.
    """
    name = repo_id or f"local/{file.stem}"
    folder = output or _lerobot_folder(name)
    if places and format != "adroit":
        raise UserError(f"--places is for format adroit; the format is {format}.")
    if format == "adroit":
        from ebt_policy.envs.convert import adroit

        if env not in (None, adroit.ENV):
            raise UserError(f"--env is '{env}'; demonstrations in format adroit are of {adroit.ENV}.")
        record = adroit.convert(file, folder, name, keep_failed=keep_failed, places=places)
    else:
        from ebt_policy.envs.convert import robomimic

        record = robomimic.convert(file, folder, name, env=env, keep_failed=keep_failed)
    for warning in record["warnings"]:
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"{len(record['kept'])} of {record['attempted']} demonstrations: {folder} (repo id {name})")


def _lerobot_folder(repo_id: str) -> Path:
    """Where LeRobot looks for a dataset."""
    from lerobot.utils.constants import HF_LEROBOT_HOME

    return HF_LEROBOT_HOME / repo_id


def corrections(
    root: Positional[Path],
    output: Path,
    repo_id: str = "local/corrections",
    before_s: float = 0.0,
    flag: bool = True,
) -> None:
    """The operator's corrections of a recorded dataset as a dataset of their own, each as an episode.

    Args:
        root: Folder of a dataset of `ebt-policy deploy --record.root`, or of LeRobot's DAgger strategy.
        output: A new folder.
        repo_id: Name of the new dataset.
        before_s: Seconds of what the policy did before each correction to take along, marked as not the operator's.
        flag: Keep the column `intervention`. Without it the dataset can be merged with demonstrations, which have none.
    """
    from ebt_policy.hardware.recording.corrections import corrections as run

    print(run(root, output, repo_id, before_s, flag))
