"""Command of `ebt-policy` that runs a policy on an arm: deploy."""

import contextlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ebt_policy.cli.options import config_file

FLAGS = ("--check", "--measure_latency", "--safety.shadow")

HELP = """\
usage: ebt-policy deploy [--config_path=NAME|FILE] [--GROUP.OPTION=VALUE ...]

Run a policy on an arm, or on its simulated twin.

Options are read by LeRobot's parser, so robots and cameras are written as in LeRobot's own commands: with dots and "=",
unlike in the other commands here.

examples
  # the twin: a simulated task in place of an arm
  ebt-policy deploy --policy.path=shipped:pusht_keypoints_ebt
  # test cameras, joints, policy and limits of an SO-101; nothing moves
  ebt-policy deploy --config_path=so101 --policy.path=runs/my_robot --check
  # compute and show, send nothing; then at a quarter of the trained speed
  ebt-policy deploy --config_path=so101 --policy.path=runs/my_robot --safety.shadow=true
  ebt-policy deploy --config_path=so101 --policy.path=runs/my_robot --speed=0.25

what runs
  --config_path=...          a YAML file with any of these options, or a shipped one by name: {arms}
  --policy.path=...          a run, a checkpoint, or shipped:NAME
  --policy.server=...        instead: the ws:// address of `ebt-policy serve`; --policy.token_file=... for its secret
  --policy.device=...        torch device (default: cpu)
  --task="..."               the task as a sentence, for a policy of several; also written into the dataset of --record.root
  --policy.calibration=...   alarms by this file of `ebt-policy calibrate`; --policy.ladder=[...] says what to do then

on what
  --robot.type=...           a LeRobot robot, such as so101_follower (default: the twin); --robot.port=, --robot.id=
  --robot.cameras=...        '{{front: {{type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}}}'
  --fps=...                  ticks a second of the training data
  --streams.max_age_s=...    seconds after which a picture counts as stale; --streams.latency_s='{{front: 0.05}}'

safety
  --check                    test everything, move nothing
  --safety.shadow=true       compute everything, send nothing
  --speed=...                part of the trained speed (default: 0.25 on an arm, 1 in simulation)
  --safety.velocity=...      joint speed limit at speed 1, units a second; --safety.acceleration=...
  --measure_latency          move one joint a little and say what to put into --streams

takeover
  --teleop.type=...          a LeRobot teleoperator, such as so101_leader, gamepad, keyboard; ebt_expert on the twin
  --ask_timeout_s=...        seconds to wait for an answer before the episode ends (default: 120)

session
  --episodes=... --seconds=...   how many, and the longest (default: 1 and 60)
  --record.root=...          write a LeRobot dataset into this folder; --record.task=...
  --viewer=...               none, rerun, or a file to write, such as run.rrd
  --output=...               folder for the log (default: runs/deploy)

  --help_all                 every option, with those of all robots and cameras (LeRobot's list)
More: docs/deploy.md
"""


def deploy(*options: str) -> None:
    """Run a policy on an arm, or on its simulated twin. `ebt-policy deploy --help` shows examples and the main options.

    Robots and cameras are LeRobot's, by its own options: --robot.type=so101_follower --robot.port=/dev/ttyACM0
    --robot.cameras='{front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}'. Without --robot.type it is
    the twin, a simulated task. --check tests everything and moves nothing; --safety.shadow=true computes and sends nothing.
    """
    if {"-h", "--help"} & set(options):
        arms = Path(str(resources.files("ebt_policy"))) / "configs" / "arms"
        print(HELP.format(arms=", ".join(sorted(file.stem for file in arms.glob("*.yaml")))))
        return
    options = tuple(_lerobots(option) for option in _joined(options))
    import lerobot.cameras.opencv
    import lerobot.cameras.realsense  # noqa: F401
    import lerobot.robots as robots
    import lerobot.teleoperators as teleoperators
    from lerobot.configs import parser
    from lerobot.utils.import_utils import register_third_party_plugins

    import ebt_policy.registration  # noqa: F401
    from ebt_policy.hardware.config_deploy import DeployConfig

    for name in (
        "so_leader",
        "bi_so_leader",
        "koch_leader",
        "omx_leader",
        "openarm_leader",
        "bi_openarm_leader",
        "openarm_mini",
        "rebot_102_leader",
        "gamepad",
        "keyboard",
    ):
        __import__(f"{teleoperators.__name__}.{name}")
    for module in pkgutil.iter_modules(robots.__path__):
        if module.ispkg:
            with contextlib.suppress(ImportError):  # some need a package of their maker
                __import__(f"{robots.__name__}.{module.name}")
    register_third_party_plugins()

    wrap: Any = parser.wrap()  # untyped: it fills in the argument from sys.argv

    @wrap
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

    before = sys.argv
    # LeRobot's parser reads the command line itself, and wants a value for everything.
    sys.argv = ["ebt-policy deploy", *(f"{option}=true" if option in FLAGS else option for option in options)]
    try:
        run()
    finally:
        sys.argv = before


def _joined(options: Sequence[str]) -> list[str]:
    """`--config_path FILE` as one option: LeRobot's parser takes it with "=" alone."""
    found = list(options)
    if "--config_path" in found[:-1]:
        at = found.index("--config_path")
        found[at : at + 2] = [f"--config_path={found[at + 1]}"]
    return found


def _lerobots(option: str) -> str:
    """One option as LeRobot's parser wants it: arm files by name, and --help for the full list."""
    if option == "--help_all":
        return "--help"
    if option.startswith("--config_path="):
        name = option.removeprefix("--config_path=")
        path = config_file(name, "arm file", folder="arms")
        if path != Path(name):
            print(f"{name}: there is no such file here, so the one of the package is used: {path}")
        return f"--config_path={path}"
    return option.replace("--measure-latency", "--measure_latency")


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

    sink = RerunSink("deploy", fps, None if name == "rerun" else Path(name))
    viewer = LiveViewer(sink)
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
                beyond=plan["beyond"],
            ),
            newest[0],
        )

    def on_takeover(event: Any) -> None:
        text = f"{event.kind.replace('_', ' ')}: {event.detail}"
        viewer.run(lambda: sink.event(round(event.time * fps), text, "WARN"))

    try:
        yield {"on_plan": on_plan, "on_frame": on_frame, "on_takeover": on_takeover}
    finally:
        viewer.close()
