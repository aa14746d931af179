"""EBT-Policy: an energy-based transformer policy for LeRobot.

Importing the package registers its policies and environments with LeRobot and nothing more: it happens at the start
of every LeRobot command.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("lerobot") is not None:
    from ebt_policy.configuration_ebt import EBTConfig
    from ebt_policy.configuration_matched_baseline import MatchedBaselineConfig

    __all__ = ["EBTConfig", "MatchedBaselineConfig"]
