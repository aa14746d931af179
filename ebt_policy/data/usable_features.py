"""Which features of a dataset a policy can be trained on: vectors of numbers, and cameras with 8-bit pictures."""

from collections.abc import Sequence

from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_PREFIX

from ebt_policy.errors import UserError
from ebt_policy.suggestions import did_you_mean


def observation_features(meta: LeRobotDatasetMetadata) -> list[str]:
    """Names of all observation features, usable or not."""
    return [key for key in meta.features if key.startswith(OBS_PREFIX)]


def why_unusable(meta: LeRobotDatasetMetadata, key: str) -> str | None:
    """What kind of feature `key` is, where no policy here can be trained on it; None where one can."""
    feature = meta.features[key]
    if feature["dtype"] in ("string", "language"):
        return "text"
    if key in meta.depth_keys:
        return "a depth camera (pictures must have 8 bits a channel)"
    if key not in meta.camera_keys and len(feature["shape"]) != 1:
        return f"an array of shape {tuple(feature['shape'])}, not a vector"
    return None


def choose_observations(meta: LeRobotDatasetMetadata, wanted: Sequence[str] | None) -> list[str]:
    """The observation features to train on: `wanted`, or all of them where it is None.

    Raises UserError for a name that the dataset does not have, and for a feature that cannot be used.
    """
    known = observation_features(meta)
    for name in wanted or ():
        if name not in known:
            raise UserError(
                f"Dataset '{meta.repo_id}' has no observation '{name}'.{did_you_mean(name, known)} It has: "
                f"{', '.join(known)}."
            )
    if ACTION not in meta.features:
        raise UserError(
            f"Dataset '{meta.repo_id}' has no feature 'action'. It has: {', '.join(meta.features)}."
        )
    if kind := why_unusable(meta, ACTION):
        raise UserError(f"action is {kind}. Store the actions as vectors, one number for each joint.")
    chosen = list(wanted or known)
    for name in chosen:
        if kind := why_unusable(meta, name):
            raise UserError(f"{name} is {kind}: no policy here can use it. {how_to_leave_out(meta)}")
    return chosen


def how_to_leave_out(meta: LeRobotDatasetMetadata) -> str:
    """The option of `train` that leaves unusable observations out, as the end of a message."""
    usable = [name for name in observation_features(meta) if why_unusable(meta, name) is None]
    if not usable:
        return "The dataset has no other observation."
    return f"Leave it out: --set dataset.observations='[{', '.join(usable)}]'"
