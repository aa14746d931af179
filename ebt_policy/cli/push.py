"""`ebt-policy push`: uploads a trained policy to the Hugging Face Hub, with a card that says what it is."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from tyro.conf import Positional

from ebt_policy.errors import UserError


def push(
    run: Positional[str],
    repo_id: Positional[str],
    evaluation: Path | None = None,
    calibration: Path | None = None,
    tag: str | None = None,
    private: bool = False,
) -> None:
    """Upload a policy to the Hugging Face Hub, with a model card. Log in first: hf auth login.

    Everyone can then run it: ebt-policy eval --policy USER/NAME@TAG. Weights, configuration and processors are uploaded;
    no data, no training state.

    Args:
        run: A run or checkpoint folder, or shipped:NAME.
        repo_id: USER/NAME on the Hub; made if it is not there.
        evaluation: A file of `ebt-policy eval --json`: its result, with interval, goes into the card.
        calibration: A file of `ebt-policy calibrate`: uploaded too, and described in the card.
        tag: Name this version, e.g. v1.
        private: Only you see it.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    from ebt_policy.inference.checkpoints import HUB_PATTERNS, find_checkpoint

    folder = find_checkpoint(run)
    if repo_id.count("/") != 1:
        raise UserError(f"'{repo_id}' is no name on the Hub; expected USER/NAME, for example me/my_policy.")
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        stage(folder, repo_id, staged, evaluation, calibration)
        if is_offline_mode():
            raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it.")
        api = HfApi()
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=staged,
                allow_patterns=HUB_PATTERNS,
                commit_message="Upload policy",
            )
            if tag:
                api.create_tag(repo_id, tag=tag, revision=commit.oid)
        except (HfHubHTTPError, OSError) as error:
            raise UserError(
                f"The Hub did not take '{repo_id}': {error}. Log in with `hf auth login`, and check name and network."
            ) from error
    print(f"Uploaded: https://huggingface.co/{repo_id}" + (f" (tag {tag})" if tag else ""))


def stage(
    folder: Path, repo_id: str, output: Path, evaluation: Path | None = None, calibration: Path | None = None
) -> None:
    """Fills `output` with what is uploaded of the pretrained_model `folder`.

    Raises UserError for an evaluation or a calibration of another checkpoint.
    """
    from lerobot.configs.policies import PreTrainedConfig

    import ebt_policy.registration  # noqa: F401  (LeRobot knows our policy types from here on)
    from ebt_policy.model_card import model_card
    from ebt_policy.monitoring.calibration import read_calibration
    from ebt_policy.monitoring.learned_signals import beside
    from ebt_policy.provenance import sha256, write_json
    from ebt_policy.training.export import without_folders
    from ebt_policy.training.trained_on import training_data

    for path in folder.iterdir():
        if path.suffix in (".json", ".safetensors"):
            shutil.copyfile(path, output / path.name)
    digest = sha256(folder / "model.safetensors")
    train_config = without_folders(output / "train_config.json")
    measured = None
    if evaluation:
        measured = json.loads(evaluation.read_text())
        if measured.get("checkpoint_sha256") != digest:
            raise UserError(f"{evaluation} is not an evaluation of {folder}: its checkpoint is another one.")
        write_json(output / "evaluation.json", measured)
    alarms = None
    if calibration:
        made = read_calibration(calibration, digest)
        low, high = made.false_alarms
        alarms = {"episodes": len(made.scores), "source": made.source, "alpha": made.alpha}
        alarms |= {"low": low, "high": high}
        shutil.copyfile(calibration, output / "calibration.json")
        if beside(calibration).is_dir():
            shutil.copytree(beside(calibration), beside(output / "calibration.json"))
    card = model_card(
        PreTrainedConfig.from_pretrained(folder),
        repo_id=repo_id,
        dataset=training_data(folder).get("repo_id"),
        training={
            name: train_config[name] for name in ("steps", "batch_size", "seed") if name in train_config
        },
        evaluation=measured,
        calibration=alarms,
    )
    card.save(output / "README.md")
