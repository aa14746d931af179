"""Several environments as one gymnasium vector environment, in this process or in worker processes."""

from __future__ import annotations

import multiprocessing
from functools import partial

import gymnasium as gym
from gymnasium.vector import AutoresetMode


def make_vector(factory: partial[gym.Env], n_envs: int, use_async_envs: bool) -> gym.vector.VectorEnv:
    """A vector of `n_envs` environments. `factory` must be a partial of a module-level function, which workers import.

    (LeRobot's own PushT and ALOHA fail with several asynchronous environments: their factory looks up a gymnasium name that
    is not registered in the workers.)
    """
    factories = [factory] * n_envs
    if not use_async_envs or n_envs == 1:
        return gym.vector.SyncVectorEnv(factories, autoreset_mode=AutoresetMode.SAME_STEP)
    # The fork server imports the module once; simulators are created in the workers.
    multiprocessing.get_context("forkserver").set_forkserver_preload([factory.func.__module__])
    return gym.vector.AsyncVectorEnv(factories, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP)
