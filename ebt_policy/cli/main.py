"""`ebt-policy`: one command with a sub-command for each job.

Nothing heavy is imported before a sub-command runs, so `--help` answers at once.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from ebt_policy.cli.deploy import deploy
from ebt_policy.cli.measure import bench, demo, energy, evaluate
from ebt_policy.cli.push import push
from ebt_policy.cli.train import cache, doctor, export, improve, throughput, train
from ebt_policy.cli.watch import calibrate, serve, trace
from ebt_policy.cli.worlds import collect, convert, corrections, envs
from ebt_policy.errors import UserError
from ebt_policy.extras import missing_extra
from ebt_policy.provenance import versions
from ebt_policy.suggestions import did_you_mean

COMPLETION = (
    "Completion of commands and options with the tab key: ebt-policy --tyro-write-completion bash "
    "~/.local/share/bash-completion/completions/ebt-policy (or zsh, tcsh; --tyro-print-completion prints it)."
)

_PACKAGE = "ebt_policy"
_usual_warning = warnings.formatwarning

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "envs": envs,
    "collect": collect,
    "convert": convert,
    "corrections": corrections,
    "train": train,
    "improve": improve,
    "eval": evaluate,
    "trace": trace,
    "calibrate": calibrate,
    "bench": bench,
    "deploy": deploy,
    "serve": serve,
    "doctor": doctor,
    "cache": cache,
    "energy": energy,
    "export": export,
    "push": push,
    "throughput": throughput,
}


def main() -> None:
    """Entry point. Exit status 1 for a mistake that the user can correct, 2 for an unknown option, 130 for Ctrl-C."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    warnings.formatwarning = _warning
    logging.getLogger("lerobot.utils.import_utils").addFilter(_short_decoder_warning)
    try:
        first = sys.argv[1] if len(sys.argv) > 1 else "--help"
        if first in ("--version", "-V"):
            print(_version())
            return
        if not first.startswith("-") and first not in COMMANDS:
            raise UserError(
                f"There is no command '{first}'.{did_you_mean(first, list(COMMANDS))} Commands: {', '.join(COMMANDS)}."
            )
        if first == "deploy":
            deploy(*sys.argv[2:])
            return
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="ebt-policy",
            description="Energy-based transformer policies for LeRobot: train, measure, deploy, watch.\n\n"
            + COMPLETION,
        )
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith(_PACKAGE):
            raise
        print(f"ebt-policy: {missing_extra(error.name, f'`ebt-policy {first}`')}", file=sys.stderr)
        raise SystemExit(1) from None
    except UserError as error:
        print(f"ebt-policy: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours as a sentence; those of other packages with their place, as usual."""
    if _PACKAGE in Path(filename).parts:
        return f"ebt-policy: {message}\n"
    return _usual_warning(message, category, filename, lineno, line)


def _short_decoder_warning(record: logging.LogRecord) -> bool:
    """LeRobot prints torchcodec's tracebacks, a hundred lines, where FFmpeg is missing. One says as much."""
    if "torchcodec" in record.getMessage():
        record.msg = (
            "torchcodec cannot be loaded (it needs FFmpeg's shared libraries), so PyAV decodes videos."
        )
        record.args = ()
    return True


def _version() -> str:
    """Version of this package and of what its results depend on, one line."""
    found = versions()
    own = found.pop("lerobot_policy_ebt", "not installed")
    others = ", ".join(f"{name} {found[name]}" for name in ("python", "lerobot", "torch") if name in found)
    return f"ebt-policy {own} ({others})"
