"""EBT-Policy: an energy-based transformer policy for LeRobot.

Importing the package registers its policies and environments with LeRobot and nothing more: it happens at the start
of every LeRobot command.
"""

import importlib.util
import sys
from pathlib import Path

__version__ = "0.1.0"

# LeRobot's own import takes seconds, and `ebt-policy --help` has to answer at once: its sub-commands register
# when they run. The arm's side of a policy server may lack LeRobot altogether (`ebt_policy.hardware.remote.client`).
_command = (
    Path(sys.argv[0]).stem == "ebt-policy" or "ebt_policy.cli" in sys.orig_argv
)  # or python -m ebt_policy.cli
if not _command and importlib.util.find_spec("lerobot"):
    from ebt_policy.registration import EBTConfig, MatchedBaselineConfig

    __all__ = ["EBTConfig", "MatchedBaselineConfig"]
