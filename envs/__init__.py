"""Simulated tasks by name, each behind the same small record. Nothing here knows a policy."""

from ebt_policy.envs.registry import environment as environment
from ebt_policy.envs.registry import environments as environments
from ebt_policy.envs.spec import EnvSpec as EnvSpec
