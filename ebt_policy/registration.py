"""Importing this registers our policies and environments with LeRobot, by configuration classes alone.

Models and simulators load when they are first used.
"""

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.configuration_matched_baseline import MatchedBaselineConfig
from ebt_policy.envs.configuration_pusht import EBTPushTEnv
from ebt_policy.envs.configuration_simulated import EBTAlohaEnv, EBTRobosuiteEnv

__all__ = ["EBTAlohaEnv", "EBTConfig", "EBTPushTEnv", "EBTRobosuiteEnv", "MatchedBaselineConfig"]
