"""Command of `ebt-policy` that runs a policy on an arm: deploy."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = ("--check", "--measure_latency", "--safety.shadow")


def deploy(*options: str) -> None:
    """Run a policy on an arm, or on its simulated twin: `ebt-policy deploy --help` lists everything.

    Robots and cameras are LeRobot's, by its own options: --robot.type=so101_follower --robot.port=/dev/ttyACM0
    --robot.cameras='{front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}'. Without --robot.type it is
    the twin, a simulated task. --check tests everything and moves nothing; --safety.shadow=true computes and sends nothing.
    """
    import lerobot.cameras.opencv
    import lerobot.cameras.realsense  # noqa: F401
    import lerobot.robots as robots
    from lerobot.configs import parser
    from lerobot.utils.import_utils import register_third_party_plugins

    import ebt_policy.registration  # noqa: F401
    from ebt_policy.hardware.config_deploy import DeployConfig

    for name in ("so_follower", "koch_follower", "omx_follower", "bi_so_follower"):
        __import__(f"{robots.__name__}.{name}")
    register_third_party_plugins()

    @parser.wrap()
    def run(config: DeployConfig) -> None:
        from ebt_policy.hardware.deploy import deploy

        if config.check:
            from ebt_policy.hardware.setup.check import check

            if not check(config):
                raise SystemExit(1)
        elif config.measure_latency:
            from ebt_policy.hardware.setup.latency import measure_latency

            measure_latency(config)
        else:
            with _viewer(config.viewer, config.fps or 30.0) as listeners:
                ended = deploy(config, **listeners)[-1].end
            if ended in ("quit", "error"):
                raise SystemExit(130 if ended == "quit" else 1)

    options = tuple(option.replace("--measure-latency", "--measure_latency") for option in options)
    before = sys.argv
    # LeRobot's parser reads the command line itself, and wants a value for everything.
    sys.argv = ["ebt-policy deploy", *(f"{option}=true" if option in FLAGS else option for option in options)]
    try:
        run()
    finally:
        sys.argv = before


@contextlib.contextmanager
def _viewer(name: str, fps: float) -> Iterator[dict[str, Any]]:
    """What `deploy` should tell a viewer that can stall or die without slowing the arm: rerun, or a file for it (*.rrd)."""
    from ebt_policy.errors import UserError

    if name == "none":
        yield {}
        return
    if name != "rerun" and not name.endswith(".rrd"):
        raise UserError(f"--viewer is '{name}'; expected none, rerun, or a file to write, such as run.rrd.")
    from ebt_policy.eval.report.live_viewer import LiveViewer
    from ebt_policy.eval.report.rerun_sink import RerunSink
    from ebt_policy.eval.rollout.timeline import TimelineDecision

    viewer = LiveViewer(RerunSink("deploy", fps, None if name == "rerun" else Path(name)))
    newest: list[Any] = [None]  # picture (H, W, 3)

    def on_frame(sent: Any) -> None:
        for feature, value in sent.observation.values.items():
            if feature.startswith("observation.images."):
                newest[0] = value.transpose(1, 2, 0)
                return

    def on_plan(plan: Any) -> None:
        viewer.log(
            TimelineDecision(
                tick=round(plan["stamp"] * fps),
                seconds=plan["seconds"],
                evaluations=plan["evaluations"],
                stop_reason=plan["stop_reason"],
                energy=tuple(plan["energies"]),
                residual_rms=(),
                score=plan["score"],
                quantile=plan["quantile"],
                alarm=plan["alarm"],
                recovery=plan["recovery"],
            ),
            newest[0],
        )

    try:
        yield {"on_plan": on_plan, "on_frame": on_frame}
    finally:
        viewer.close()
