"""EBT-Policy: an energy-based transformer policy for LeRobot.

Importing the package registers its policies and environments with LeRobot and nothing more: it happens at the start
of every LeRobot command.
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

# LeRobot's own import takes seconds, and `ebt-policy --help` has to answer at once: its sub-commands register
# when they run.
if Path(sys.argv[0]).stem != "ebt-policy":
    from ebt_policy.registration import EBTConfig, MatchedBaselineConfig

    __all__ = ["EBTConfig", "MatchedBaselineConfig"]
