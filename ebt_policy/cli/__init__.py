"""The command `ebt-policy`."""

from ebt_policy.cli.main import main as main
