"""The sentence reaches a policy on the arm's computer and one on a server."""

import numpy as np
import pytest
from policy_server import TIMEOUT_S, serving
from two_tasks import LEFT, RIGHT

from ebt_policy.errors import UserError
from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions
from ebt_policy.hardware.control.planning import Observation, Plan, PlanRequest
from ebt_policy.hardware.planners.make import make_planner
from ebt_policy.hardware.planners.served import ServedRunner
from ebt_policy.hardware.remote.client import NoDecision, RemotePolicy
from ebt_policy.inference.runner import load_runner

SEEN = {"observation.state": np.zeros(2, np.float32)}


def first_action(planner) -> float:
    plan = planner.plan(PlanRequest([Observation(SEEN, 1.0)], np.inf, reset=True))
    assert isinstance(plan, Plan), plan
    return float(plan.actions[0].mean())


@pytest.mark.parametrize(("sentence", "sign"), [(LEFT, -1), (RIGHT, 1)])
def test_a_deployed_policy_does_what_it_is_told(told, sentence, sign):
    planner = make_planner(PolicyOptions(path=str(told), task=sentence), fps=10.0)
    assert np.sign(first_action(planner)) == sign


def test_a_deployment_without_a_task_is_refused_before_anything_moves(told):
    with pytest.raises(UserError, match="nothing says which"):
        make_planner(PolicyOptions(path=str(told)), fps=10.0)


def test_a_client_says_the_task_with_each_observation(told):
    served = ServedRunner(load_runner(told))
    assert served.welcome.tasks == (LEFT, RIGHT)
    with serving(served) as url, RemotePolicy(url, task=LEFT) as policy:
        assert policy.decide(SEEN, TIMEOUT_S).actions[0].mean() < 0
        policy.task = RIGHT
        policy.reset()
        assert policy.decide(SEEN, TIMEOUT_S).actions[0].mean() > 0
        policy.task = ""
        with pytest.raises(NoDecision, match="nothing says which"):
            policy.decide(SEEN, TIMEOUT_S)


def test_a_deployment_on_a_server_names_its_tasks_where_none_is_given(told):
    with serving(ServedRunner(load_runner(told))) as url:
        with pytest.raises(UserError, match=f"several tasks.*{LEFT}"):
            make_planner(PolicyOptions(server=url), fps=10.0)
        planner = make_planner(PolicyOptions(server=url, task=RIGHT), fps=10.0)
        assert first_action(planner) > 0
        planner.close()


def test_the_task_of_a_deployment_is_that_of_its_policy_and_of_its_record():
    config = DeployConfig(task=LEFT)
    assert (config.policy.task, config.record.task) == (LEFT, LEFT)
    named = DeployConfig(task=LEFT, policy=PolicyOptions(task=RIGHT))
    assert (named.policy.task, named.record.task) == (RIGHT, LEFT)
