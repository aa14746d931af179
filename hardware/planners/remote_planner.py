"""A policy on a server (`ebt-policy serve`) as a planner. Needs neither torch nor LeRobot."""

from __future__ import annotations

import time

from ebt_policy.errors import UserError
from ebt_policy.hardware.control.planning import NoPlan, Plan, PlanRequest, finite_frames
from ebt_policy.hardware.remote.client import ConnectionLost, NoDecision, RemotePolicy
from ebt_policy.hardware.remote.contract import contract_of

_LONGEST_S = 60.0  # where the request sets no deadline, as in simulated time


class RemotePlanner:
    """Waits for an answer no longer than the request's deadline, and connects again to a server that was lost."""

    def __init__(self, remote: RemotePolicy) -> None:
        """remote: connected already. alarms: whether the server watches its policy."""
        self.remote = remote
        self.needs = {name: feature.shape for name, feature in remote.welcome.features.items()}
        self.contract = contract_of(remote.welcome)
        self.action_size = remote.welcome.action.shape[0]
        self.alarms = remote.welcome.alarm_above is not None

    def plan(self, request: PlanRequest) -> Plan | NoPlan:
        begin = time.perf_counter()
        try:
            if self.remote.lost:
                self.remote.connect()
            if request.reset:
                self.remote.reset()
            frames, reason = finite_frames(request)
            for observation in frames if reason else frames[:-1]:
                self.remote.observe(observation.values)
            if reason:
                return NoPlan(reason)
            left = min(request.deadline_s, _LONGEST_S) - (time.perf_counter() - begin)
            reply = self.remote.decide(request.frames[-1].values, max(left, 1e-3))
        except UserError as error:
            return NoPlan(str(error), fatal=True)
        except TimeoutError:
            return NoPlan(f"the server did not answer within {request.deadline_s:.3f} s")
        except (ConnectionLost, NoDecision) as error:
            return NoPlan(str(error))
        return Plan(
            actions=reply.actions,
            stamp=request.frames[-1].stamp,
            execute=len(reply.actions),
            seconds=reply.round_trip_s,
            evaluations=reply.evaluations,
            stop_reason=reply.stop_reason,
            energy=reply.energy,
            score=reply.score,
            alarm=reply.alarm,
            ask=reply.alarm,  # a remote policy has no recovery actions: an alarm stops the arm
            beyond=reply.beyond,
        )

    def close(self) -> None:
        self.remote.close()
