"""Commands of `ebt-policy` that make policies: train, doctor, cache, export, throughput."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ebt_policy.cli.options import Overrides, key_values


def train(
    config: str = "pusht_keypoints",
    output: Path | None = None,
    resume: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    tracker: Literal["wandb", "trackio"] | None = None,
    overrides: Overrides = (),
) -> None:
    """Train a policy (ebt, matched_baseline, diffusion, act, ...) on a LeRobot dataset.

    Args:
        config: Name of a shipped recipe, or path of a YAML file.
        output: Run folder (default: runs/<config>). Holds recipe, versions, logs and checkpoints.
        resume: Continue the run in that folder; with more steps than before, extend it.
        steps: Optimiser steps.
        seed: Seed of the weights, the noise and the order of the data.
        tracker: Also log to this experiment tracker; it must be installed and set up.
        overrides: e.g. --set policy.type=diffusion --set dataset.repo_id=me/my_arm --set batch_size=64
    """
    from ebt_policy.training.recipe import load_recipe
    from ebt_policy.training.train import train as run

    values = key_values(overrides)
    values |= {k: v for k, v in {"steps": steps, "seed": seed, "tracker": tracker}.items() if v is not None}
    folder = output or Path("runs") / Path(config).stem
    print(
        f"Policy: {run(load_recipe(config, values), folder, resume=resume)}/checkpoints/last/pretrained_model"
    )


def improve(
    run: Positional[Path],
    corrections: tuple[str, ...],
    output: Path | None = None,
    steps: int = 1000,
    share: float | None = None,
    env: str | None = None,
    episodes: int = 100,
    seed: int = 200_000,
    calibration: Path | None = None,
    calibration_episodes: int = 250,
    processes: int | None = None,
    resume: bool = False,
    overrides: Overrides = (),
) -> None:
    """Learn from corrections: go on training a policy on its demonstrations and on what an operator showed.

    It takes minutes on joints alone; with cameras the pictures of the whole recording are prepared first.

    Starts from the run's averaged weights and keeps its normalisation. Of recordings with a column `intervention` (deploy
    with --teleop.type, or LeRobot's DAgger strategy) only the operator's frames are learned; without one, all are. With
    --env both policies act on the same seeds, and it says which is better. The new run says what it comes from (run.json).

    Args:
        run: A run folder of `train` or `improve`. It stays as it is; corrections that it was improved with stay in.
        corrections: Datasets, by folder or repo id, recorded on the same robot at the same rate.
        output: Folder of the new run (default: the old one's name and _improved, beside it).
        steps: Optimiser steps: a short warm-up, then a cosine to zero from three tenths of the run's own learning rate.
        share: Of corrections in each batch (default 0.5: few corrections weigh as much as many demonstrations).
        env: Compare old and new policy in this environment, best the undisturbed one: they must not have become worse there.
        episodes: Of that comparison, for each policy.
        seed: Of its first episode; neither the seeds of `eval` nor those of `calibrate`.
        calibration: Calibrate the new policy as this file of `ebt-policy calibrate` was made, into the new run (default:
            calibration.json in the run folder, where it is there).
        calibration_episodes: How many, where it was made in an environment.
        processes: Worker processes for the episodes (default: one for each core).
        resume: Continue the new run in that folder; the other options must be as before.
        overrides: Any option of the recipe, e.g. --set optimizer.lr=1e-4 --set dataset.root=data/demonstrations
    """
    from ebt_policy.eval.benchmarks.improvement import check_source, improvement, recalibrate
    from ebt_policy.training.improve import improve as train_on

    known = calibration or run / "calibration.json"
    if calibration or known.is_file():
        check_source(known)
    folder = output or run.with_name(f"{run.name}_improved")
    made = train_on(
        run, corrections, folder, steps=steps, share=share, resume=resume, overrides=key_values(overrides)
    )
    print(f"Policy: {made}/checkpoints/last/pretrained_model")
    if calibration or known.is_file():
        print(recalibrate(known, made, calibration_episodes, processes))
    else:
        print(f"Not calibrated: there is no {known}. For alarms: ebt-policy calibrate --policy {made} ...")
    if env:
        print(f"{env}: {improvement(run, made, env, episodes, seed, processes)}")


def doctor(
    dataset: Positional[str],
    root: Path | None = None,
    tolerance_s: float = 1e-4,
    json: Path | None = None,
    html: Path | None = None,
) -> None:
    """Look for faults in a dataset before they cost a training run.

    Reads all numbers and a few pictures of each camera. Says what it read and checked; each fault comes with its place
    and what to do about it. Exit status 1 if there is an error, 0 if there are only warnings.

    Args:
        dataset: Repo id, e.g. lerobot/pusht_keypoints
        root: A local folder instead of LeRobot's cache.
        tolerance_s: Seconds that a video's picture may lie from its row's time stamp (train: dataset.tolerance_s).
        json: Write the report as JSON to this file; - prints it instead of the text.
        html: Write a contact sheet to this file: a picture of each camera and episode, and the findings.
    """
    import json as json_format

    from ebt_policy.data.doctor import examine, print_examination
    from ebt_policy.data.doctor.report import examination_json
    from ebt_policy.provenance import write_json

    examination = examine(dataset, root, tolerance_s=tolerance_s, progress=True)
    if json == Path("-"):
        print(json_format.dumps(examination_json(examination), indent=2))
    else:
        print_examination(examination)
    if json is not None and json != Path("-"):
        json.parent.mkdir(parents=True, exist_ok=True)
        write_json(json, examination_json(examination))
    if html is not None:
        from ebt_policy.data.doctor.contact_sheet import write_contact_sheet

        write_contact_sheet(html, examination, examination.seen)
    if examination.errors:
        raise SystemExit(1)


def cache(dataset: Positional[str | None] = None, clear: bool = False, older_than_days: float = 0.0) -> None:
    """Show what `train` keeps on disk, or remove it: decoded pictures, and maps that frozen backbones made of them.

    It is made anew when it is needed. The folder is EBT_POLICY_CACHE, or ebt_policy in your cache folder.

    Args:
        dataset: Repo id; left out: all datasets.
        clear: Remove them.
        older_than_days: Only what no training used for so many days.
    """
    from ebt_policy.data import cache_contents, frame_cache

    found = cache_contents.entries(dataset, older_than_days)
    total = f"{sum(entry.bytes for entry in found) / 1e9:.3g} GB"
    if clear:
        cache_contents.remove(found)
        print(f"{total} removed from {frame_cache.cache_folder()}")
        return
    for entry in found:
        print(
            f"{entry.dataset}  {entry.camera}  {entry.what}  {entry.size}  {len(entry.files)} files  "
            f"{entry.bytes / 1e9:.3g} GB  used {entry.days:.0f} days ago"
        )
    print(f"{total} in {frame_cache.cache_folder()}")


def export(policy: str, output: Path) -> None:
    """Copy a checkpoint with half-precision weights, to ship or upload it.

    Args:
        policy: A run or checkpoint folder.
        output: A new folder.
    """
    from ebt_policy.inference.checkpoints import find_checkpoint
    from ebt_policy.training.export import export as run

    print(run(find_checkpoint(policy), output))


def throughput(config: str = "pusht_keypoints", json: Path | None = None) -> None:
    """Samples per second of the data path and of training, beside LeRobot's own, in one run.

    Args:
        config: Name of a shipped recipe, or path of a YAML file.
        json: Where to write the figures.
    """
    from ebt_policy.eval.benchmarks.throughput import throughput as run

    run(config, json_path=json)
