"""Several environments as one gymnasium vector, in this process or in workers."""

from __future__ import annotations

import multiprocessing
from functools import partial

import gymnasium as gym
from gymnasium.vector import AutoresetMode


def make_vector(factory: partial[gym.Env], n_envs: int, use_async_envs: bool) -> gym.vector.VectorEnv:
    """`factory` must be a partial of a module-level function: worker processes import it by name.

    LeRobot's own PushT and ALOHA fail with more than one asynchronous env: their factory looks the env up by a name
    that the workers never registered.
    """
    factories = [factory] * n_envs
    if not use_async_envs or n_envs == 1:
        return gym.vector.SyncVectorEnv(factories, autoreset_mode=AutoresetMode.SAME_STEP)
    # Imported once, in the process that the workers are forked from; simulators start in the workers.
    multiprocessing.get_context("forkserver").set_forkserver_preload([factory.func.__module__])
    return gym.vector.AsyncVectorEnv(factories, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP)
