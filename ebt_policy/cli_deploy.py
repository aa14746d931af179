"""Command of `ebt-policy` that runs a policy on an arm: deploy."""

import sys

FLAGS = ("--check", "--measure_latency", "--safety.shadow")


def deploy(*options: str) -> None:
    """Run a policy on an arm, or on its simulated twin: `ebt-policy deploy --help` lists everything.

    Robots and cameras are LeRobot's, by its own options: --robot.type=so101_follower --robot.port=/dev/ttyACM0
    --robot.cameras='{front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30}}'. Without --robot.type it is
    the twin, a simulated task. --check tests everything and moves nothing; --safety.shadow=true computes and sends nothing.
    """
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
            from ebt_policy.hardware.check import check

            if not check(config):
                raise SystemExit(1)
        elif config.measure_latency:
            from ebt_policy.hardware.latency import measure_latency

            measure_latency(config)
        else:
            ended = deploy(config)[-1].end
            if ended in ("quit", "error"):
                raise SystemExit(130 if ended == "quit" else 1)

    before = sys.argv
    # LeRobot's parser reads the command line itself, and wants a value for everything.
    sys.argv = ["ebt-policy deploy", *(f"{option}=true" if option in FLAGS else option for option in options)]
    try:
        run()
    finally:
        sys.argv = before
