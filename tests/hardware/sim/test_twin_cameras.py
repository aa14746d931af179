"""`deploy` with a policy that sees, on the twin's drawn cameras. In a process of its own: OpenGL is chosen when MuJoCo is imported."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ebt_policy.envs.rendering import find_backend
from ebt_policy.errors import UserError

TASK, CAMERA, SIZE, SEED, TICKS = "aloha_transfer_cube", "observation.images.top", (48, 64), 3, 25


@pytest.mark.slow
def test_the_twin_with_drawn_cameras_decides_as_an_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("gym_aloha")
    try:
        backend = find_backend()
    except UserError as error:
        pytest.skip(f"cameras cannot be drawn: {error}")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, __file__, tmp_path], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def compare(folder: Path) -> None:
    """The same seed on the twin and in an evaluation: the same pictures, states and chunks at every decision."""
    from untrained_policies import save_camera_policy

    from ebt_policy.envs import environment
    from ebt_policy.eval.rollout.rollout import rollout
    from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions
    from ebt_policy.hardware.deploy import deploy
    from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig
    from ebt_policy.inference.runner import Runner, load_runner

    spec = environment(TASK)
    assert spec.make_with_cameras is not None
    env = spec.make_with_cameras(("top",), SIZE)
    home = spec.to_policy(env.reset(seed=SEED)[0])["observation.state"]
    env.close()
    # It moves little from where it stands, so that the safety filter changes nothing.
    policy = save_camera_policy(folder / "policy", CAMERA, SIZE, home, home + np.float32(0.01), spec.fps)

    found: list[SimpleNamespace] = []
    decide = Runner.decide

    def kept(self, observations, *args, **options):
        decision = decide(self, observations, *args, **options)
        found.append(SimpleNamespace(seen=observations, chunk=decision.chunk))
        return decision

    Runner.decide = kept
    robot = SimRobotConfig(
        task=TASK,
        realtime=False,
        sim_cameras=["top"],
        image_size=SIZE,
        camera_fps=spec.fps,
        calibration_dir=folder,
    )
    deploy(
        DeployConfig(
            policy=PolicyOptions(path=str(policy)),
            robot=robot,
            output=str(folder / "out"),
            seconds=TICKS / spec.fps,
            seed=SEED,
        )
    )
    twin = [decision for decision in found if decision.seen[CAMERA].any()]  # warming up it sees black
    found.clear()
    short = replace(spec, max_ticks=TICKS)
    import_module("ebt_policy.eval.rollout.rollout").environment = lambda name: short
    rollout(load_runner(policy), TASK, [SEED])
    assert len(twin) == len(found) == 4, (len(twin), len(found))
    for ours, theirs in zip(twin, found, strict=True):
        assert np.abs(ours.seen[CAMERA] - theirs.seen[CAMERA]).mean() < 1e-4
        # The loop's actions are in double precision.
        for mine, other in (
            (ours.seen["observation.state"], theirs.seen["observation.state"]),
            (ours.chunk, theirs.chunk),
        ):
            np.testing.assert_allclose(mine, other, atol=1e-3)
    pictures = [decision.seen[CAMERA] for decision in found]
    assert all(np.abs(a - b).max() > 0.02 for a, b in pairwise(pictures))  # each is of its own moment


if __name__ == "__main__":
    compare(Path(sys.argv[1]))
