"""Wall-clock time of one decision of two evaluations with cameras, encoders measured in turn; weights are random.

python docs/tools/camera_time.py          # prints the table that stands in docs/results/pusht_pixels.md
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

import ebt_policy  # noqa: F401  LeRobot knows the policy types from here on
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.inference.runner import Runner
from ebt_policy.model.noise import Noise

ARM = {"resize_shape": (240, 320), "crop_shape": (216, 288), "horizon": 32, "n_action_steps": 16}
ROWS = {
    "`small`, one camera of 96 x 96": (1, (96, 96), {"vision": "small"}),
    "`frozen`, one camera of 96 x 96": (1, (96, 96), {"vision": "frozen"}),
    "`frozen`, two cameras of 480 x 640 made 240 x 320": (2, (480, 640), {"vision": "frozen", **ARM}),
    "`resnet18`, two cameras of 480 x 640 made 240 x 320": (2, (480, 640), {"vision": "resnet18", **ARM}),
}


def untrained(cameras: int, size: tuple[int, int], options: dict) -> Runner:
    """A runner of an untrained policy with six joints and so many cameras (height, width)."""
    seen = {f"observation.images.{i}": PolicyFeature(FeatureType.VISUAL, (3, *size)) for i in range(cameras)}
    seen["observation.state"] = PolicyFeature(FeatureType.STATE, (6,))
    action = PolicyFeature(FeatureType.ACTION, (6,))
    config = make_policy_config(
        "ebt", device="cpu", input_features=seen, output_features={"action": action}, **options
    )
    stats = {
        name: {k: torch.full((3, 1, 1) if f.type == FeatureType.VISUAL else f.shape, v) for k, v in VALUES}
        for name, f in (seen | {"action": action}).items()
    }
    policy = get_policy_class("ebt")(config).eval()
    return Runner(policy, *make_pre_post_processors(config, dataset_stats=stats))


VALUES = (("min", -1.0), ("max", 1.0), ("mean", 0.5), ("std", 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    measured: dict[str, list[float]] = {name: [] for name in ROWS}
    with one_thread():
        runners = {name: untrained(*row) for name, row in ROWS.items()}
        seen = {
            name: {
                feature: rng.random((1, 1, *f.shape)).astype(np.float32)
                for feature, f in runner.config.input_features.items()
            }
            for name, runner in runners.items()
        }
        for turn in range(3 + rounds):
            for name, runner in runners.items():
                previous = np.zeros((1, runner.config.horizon, 6), np.float32)
                noise = Noise.from_seeds([turn])
                begin = time.perf_counter()
                runner.decide(seen[name], noise, previous)
                if turn >= 3:
                    measured[name].append(1e3 * (time.perf_counter() - begin))
    print("| Policy | Decision, ms: fastest | median | 95 % |\n| --- | ---: | ---: | ---: |")
    for name, times in measured.items():
        print(f"| {name} | {min(times):.1f} | {np.median(times):.1f} | {np.percentile(times, 95):.1f} |")


if __name__ == "__main__":
    main()
