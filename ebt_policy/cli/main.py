"""`ebt-policy`: one command, a sub-command for each thing that one comes to do.

Nothing heavy is imported before a sub-command runs, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import tyro

from ebt_policy.cli.deploy import deploy
from ebt_policy.cli.measure import bench, demo, energy, evaluate
from ebt_policy.cli.push import push
from ebt_policy.cli.train import doctor, export, throughput, train
from ebt_policy.cli.watch import calibrate, serve, trace
from ebt_policy.cli.worlds import collect, convert, envs
from ebt_policy.errors import UserError


def main() -> None:
    """Entry point. Exit status 1 for a mistake that the user can correct, 130 for Ctrl-C."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    commands: dict[str, Callable[..., Any]] = {
        "demo": demo,
        "envs": envs,
        "collect": collect,
        "convert": convert,
        "train": train,
        "eval": evaluate,
        "trace": trace,
        "calibrate": calibrate,
        "bench": bench,
        "deploy": deploy,
        "serve": serve,
        "doctor": doctor,
        "energy": energy,
        "export": export,
        "push": push,
        "throughput": throughput,
    }
    try:
        if sys.argv[1:2] == ["deploy"]:
            deploy(*sys.argv[2:])
            return
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="ebt-policy",
            description="Energy-based transformer policies for LeRobot: train, measure, deploy, watch.",
        )
    except UserError as error:
        print(f"ebt-policy: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
