"""Importing this registers our policies, environments and robots with LeRobot, by configuration classes alone.

Models, simulators and drivers load when they are first used.
"""

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.configuration_matched_baseline import MatchedBaselineConfig
from ebt_policy.envs.configuration_pusht import EBTPushTEnv
from ebt_policy.envs.configuration_simulated import (
    EBTAdroitEnv,
    EBTAlohaEnv,
    EBTMetaworldEnv,
    EBTRobosuiteEnv,
)
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.sim.config_expert_teleop import ExpertTeleopConfig
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig

__all__ = [
    "EBTAdroitEnv",
    "EBTAlohaEnv",
    "EBTConfig",
    "EBTMetaworldEnv",
    "EBTPushTEnv",
    "EBTRobosuiteEnv",
    "ExpertTeleopConfig",
    "MatchedBaselineConfig",
    "SafeRobotConfig",
    "SimRobotConfig",
]
