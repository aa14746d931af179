"""Fuzzing reports whether the server survived."""

import random
import socket

import pytest
from policy_server import FakeDecider, introduced, observe, serving

from ebt_policy.errors import UserError
from ebt_policy.hardware.emulation import server_fuzzing
from ebt_policy.hardware.emulation.malformed import damaged_messages, frame, good_messages, large_messages
from ebt_policy.hardware.emulation.server_fuzzing import child, fuzz_server


@pytest.fixture(autouse=True)
def light_children(monkeypatch):
    """A child is started with the parent's arguments; under those of our command it does not import LeRobot."""
    monkeypatch.setattr("sys.argv", ["ebt-policy"])


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_a_server_survives_and_its_controller_never_notices(tmp_path):
    messages = {"mutation": damaged_messages(60, random.Random(0)), "large": large_messages(4)}
    found = fuzz_server(messages, 10, 10, tmp_path)
    assert found.alive and found.decided_at_the_end and not found.errors_logged
    assert not found.losses and found.decisions > 0 and not found.without_decision
    assert found.faults + found.closed == sum(found.sent.values()) == 84 and not found.unanswered
    assert found.faults >= 60  # only large ones, frames and handshakes may be cut off without a word
    assert found.seats == 64 - 64 * 7 // 10 and not found.seats_refused
    assert 0 < found.memory_before <= found.memory_peak and len(found.memory_course) == 11


def test_a_taken_place_and_a_silent_server_are_told_apart_from_a_refusal(monkeypatch):
    good, bad = good_messages()[0], b"\xc1"
    hello = server_fuzzing._HANDSHAKE + frame(good)
    with serving(FakeDecider()) as url:
        assert server_fuzzing._send(port_of(url), server_fuzzing._HANDSHAKE + frame(bad)) == "fault"
        assert server_fuzzing._send(port_of(url), frame(bad), seated=True) == "fault"
        with introduced(url) as peer:
            assert server_fuzzing._send(port_of(url), frame(bad), seated=True) == "refused a seat"
            peer.send(observe(0))
    monkeypatch.setattr(server_fuzzing, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert server_fuzzing._send(silent.getsockname()[1], hello) == "unanswered"


def fails(pipe) -> None:
    raise SystemExit(3)


def test_a_child_that_ends_before_it_listens_is_told():
    with pytest.raises(UserError, match="ended before it listened"), child(fails):
        pass
