"""Scripted experts that make demonstrations, by environment."""

from ebt_policy.envs.experts.base import Expert as Expert
from ebt_policy.envs.experts.registry import expert as expert
from ebt_policy.envs.experts.registry import experts as experts
