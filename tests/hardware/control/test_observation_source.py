"""Which joint readings belong to a picture, and at what time a plan made from both begins."""

import numpy as np
import pytest

from ebt_policy.hardware.control.observation_source import RobotObservationSource
from ebt_policy.hardware.control.planning import Observation
from ebt_policy.hardware.emulation.fault_world import FaultyCamera
from ebt_policy.hardware.sensing.observer import Observer
from ebt_policy.hardware.sensing.streams import Streams

NEEDS = {"observation.state": (1,), "observation.images.front": (3, 48, 64)}
FEATURES = {"elbow.pos": float, "front": (48, 64, 3)}


def watched(aligned: bool, delay_s: float = 0.05) -> list[Observation | str]:
    """Six looks, a tenth of a second apart, at a joint that moves by one a tenth; pictures are delay_s old."""
    camera, now = FaultyCamera("front"), [0.0]
    streams = Streams([camera], 1.0, clock=lambda: now[0])
    source = RobotObservationSource(Observer(NEEDS, FEATURES, 1, ("elbow",)), streams, 0.1, aligned)
    observations = []
    for k in range(6):
        now[0] = 1 + k / 10
        camera.delay_s = delay_s
        camera.tick(now[0])
        observations.append(source({"elbow.pos": float(k)}, now[0]))
    return observations


def test_as_lerobot_records_the_joints_are_those_of_now_and_plans_begin_now():
    for k, observation in enumerate(watched(aligned=False)):
        assert observation.values["observation.state"] == k and observation.stamp == pytest.approx(1 + k / 10)


def test_aligned_the_joints_are_those_of_the_picture_and_plans_begin_there():
    for k, observation in enumerate(watched(aligned=True)[1:], start=1):
        np.testing.assert_allclose(observation.values["observation.state"], k - 0.5, atol=1e-6)
        assert observation.stamp == pytest.approx(1 + k / 10 - 0.05)


def test_a_picture_older_than_the_joints_are_known_is_a_reason_to_see_nothing():
    assert isinstance(watched(aligned=True, delay_s=0.14)[0], str)
