"""Simulated tasks by name. Nothing in this folder knows a policy."""

from ebt_policy.envs.registry import environment as environment
from ebt_policy.envs.registry import environments as environments
from ebt_policy.envs.spec import EnvSpec as EnvSpec
