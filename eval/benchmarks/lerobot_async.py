"""LeRobot's asynchronous inference, to compare a policy server with: its own gRPC service, messages and pickles.

Its server can load only the policies of a list in its code, and hands them `observation.state` and pictures, no environment
state. So the policy is put into it from here, and PushT's two vectors travel as one state; all the rest is LeRobot's: the
service, its queue, the preparation of observations, post-processing action by action, and pickling. Both settings that
slow it down are off: the wait by which it stretches each decision to 1/30 s, and its log.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Mapping
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.errors import UserError

ENV_STATE, STATE, IMAGES = "observation.environment_state", "observation.state", "observation.images."
_FPS = 10


def check_installed() -> None:
    """Raises UserError where gRPC is missing."""
    try:
        import grpc  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            "The comparison with LeRobot's server needs grpcio: pip install 'lerobot[async]==0.6.1'"
        ) from None


def serve_until_closed(pipe: Connection, policy: str | None, n_action_steps: int, folder: Path) -> None:
    """A child's main, as `hardware.attack.serve_until_closed`. policy: None for one that costs nothing.

    folder: where LeRobot makes its folder of logs.
    """
    os.chdir(folder)
    import grpc
    import torch
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.policy_server import PolicyServer
    from lerobot.transport import services_pb2, services_pb2_grpc

    from ebt_policy.inference.runner import load_runner

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)

    class Loaded(PolicyServer):
        """With the policy put in, instead of loaded by name."""

        def SendPolicyInstructions(self, request: Any, context: Any) -> Any:
            specs = pickle.loads(request.data)  # as LeRobot does; only this bench writes to this server
            self.lerobot_features, self.actions_per_chunk = specs.lerobot_features, specs.actions_per_chunk
            if policy is not None:
                runner = load_runner(policy)
                self.policy = runner.policy
                self.preprocessor = lambda seen: runner.preprocessor(
                    {STATE: seen[STATE][:, :2], ENV_STATE: seen[STATE][:, 2:]}
                )
                self.postprocessor = lambda action: torch.from_numpy(runner.actions(action))
            return services_pb2.Empty()

        def _predict_action_chunk(self, observation_t: Any) -> list:
            if policy is not None:
                return super()._predict_action_chunk(observation_t)
            # Nothing is prepared or decided: what is left is transport.
            actions = list(torch.zeros(n_action_steps, 2))
            return self._time_action_chunk(
                observation_t.get_timestamp(), actions, observation_t.get_timestep()
            )

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    config = PolicyServerConfig(host="127.0.0.1", fps=_FPS, inference_latency=0.0)
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(Loaded(config), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(port)
    try:
        pipe.recv()  # nothing is ever sent: it ends when the other end is closed
    except EOFError:
        server.stop(0)


class LeRobotClient:
    """What LeRobot's robot client sends and receives, without a robot, its threads and its queue of actions."""

    def __init__(self, port: int, observation: Mapping[str, np.ndarray], n_action_steps: int) -> None:
        """observation: an example of what `decide` will be given."""
        import grpc
        from lerobot.async_inference.helpers import RemotePolicyConfig
        from lerobot.transport import services_pb2, services_pb2_grpc
        from lerobot.transport.utils import grpc_channel_options

        self._messages = services_pb2
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", grpc_channel_options())
        self._stub = services_pb2_grpc.AsyncInferenceStub(self._channel)
        raw = self._raw(observation)
        numbers = [name for name, value in raw.items() if isinstance(value, float)]
        features: dict[str, Any] = {STATE: {"dtype": "float32", "shape": (len(numbers),), "names": numbers}}
        for name, value in raw.items():
            if name not in numbers:
                features[IMAGES + name] = {"dtype": "image", "shape": value.shape}
        self._stub.Ready(services_pb2.Empty())
        # The type is one that its server would load; ours ignores it.
        specs = RemotePolicyConfig("act", "", features, n_action_steps, "cpu")
        self._stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(specs)))
        self._step = 0

    def decide(self, observation: Mapping[str, np.ndarray]) -> tuple[float, np.ndarray]:
        """Seconds from a robot's observation to its actions, and those (n, A)."""
        from lerobot.async_inference.helpers import TimedObservation
        from lerobot.transport.utils import send_bytes_in_chunks

        raw = self._raw(observation)
        self._step += 1
        # A thread of LeRobot's client waits for actions all the time: this is not what a decision takes.
        pending = self._stub.GetActions.future(self._messages.Empty())
        begin = time.perf_counter()
        data = pickle.dumps(TimedObservation(time.time(), self._step, raw, must_go=True))
        self._stub.SendObservations(send_bytes_in_chunks(data, self._messages.Observation, silent=True))
        answer = pending.result(timeout=60)
        actions = pickle.loads(answer.data) if answer.data else []
        spent = time.perf_counter() - begin
        if not actions:
            raise UserError("LeRobot's server gave no actions: its policy failed. Look at its log.")
        return spent, np.stack([action.get_action().numpy() for action in actions])

    def close(self) -> None:
        self._channel.close()

    def _raw(self, observation: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """As a LeRobot robot gives it: a number for each entry of the state, pictures (H, W, 3)."""
        raw: dict[str, Any] = {}
        for name in (STATE, ENV_STATE):
            for i, value in enumerate(observation.get(name, ())):
                raw[f"{name.rpartition('.')[2]}_{i}.pos"] = float(value)
        for name, value in observation.items():
            if name.startswith(IMAGES):
                raw[name.removeprefix(IMAGES)] = np.ascontiguousarray(value.transpose(1, 2, 0))
        return raw
