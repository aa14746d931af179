"""The server accepts one controller with the right token, features and protocol version."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_server import STATE, TIMEOUT_S, FakeDecider, hear, raw, serving, state
from websockets.exceptions import InvalidStatus

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote import contract, wire
from ebt_policy.hardware.remote.client import Expectation, RemotePolicy
from ebt_policy.hardware.remote.contract import authorised, read_token
from ebt_policy.hardware.remote.server import PolicyServer
from ebt_policy.hardware.remote.wire import Fault, Feature, Hello

TOKEN = "0123456789abcdef"


def test_without_the_token_nobody_gets_as_far_as_a_message():
    decider = FakeDecider()
    with serving(decider, token=TOKEN) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            with pytest.raises(InvalidStatus) as refused:
                raw(url, additional_headers=headers)
            assert refused.value.response.status_code == 401
        with pytest.raises(UserError, match="token"):
            RemotePolicy(url, token="x" * 16).connect()
        with RemotePolicy(url, token=TOKEN) as policy:
            assert policy.decide(state(), TIMEOUT_S).evaluations == 2


def test_no_part_and_no_variation_of_the_token_is_accepted():
    assert authorised(f"Bearer {TOKEN}", TOKEN) and authorised(None, None)
    full = f"Bearer {TOKEN}"
    parts = [full[:i] for i in range(len(full))] + [full[i:] for i in range(1, len(full))]
    near = [
        full + "x",
        full + " ",
        full + "\n",
        full * 2,
        full.upper(),
        f"bearer {TOKEN}",
        f"Bearer  {TOKEN}",
    ]
    changed = [full[:i] + chr(ord(full[i]) ^ 1) + full[i + 1 :] for i in range(len(full))]
    for header in [None, *parts, *near, *changed, full + "é"]:
        assert not authorised(header, TOKEN), header


@given(st.text(max_size=60))
def test_any_other_text_is_refused(header: str):
    assert authorised(header, TOKEN) is (header == f"Bearer {TOKEN}")


def test_the_whole_token_is_compared_in_constant_time(monkeypatch):
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(contract.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    for header in (None, "Bearer 0", f"Bearer {TOKEN}"):
        authorised(header, TOKEN)
    assert compared == [
        ((h or "").encode(), f"Bearer {TOKEN}".encode()) for h in (None, "Bearer 0", f"Bearer {TOKEN}")
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "robot.example"])
def test_other_computers_are_let_in_with_a_token_only(host):
    with pytest.raises(UserError, match="--token-file"):
        PolicyServer(FakeDecider(), host=host)
    PolicyServer(FakeDecider(), host=host, token=TOKEN)


def test_a_web_page_is_not_let_in(url):
    with pytest.raises(InvalidStatus) as refused:
        raw(url, origin="http://127.0.0.1")
    assert refused.value.response.status_code == 403


def test_a_token_is_read_from_file_or_environment_and_not_accepted_short(tmp_path, monkeypatch):
    monkeypatch.delenv("EBT_POLICY_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("EBT_POLICY_TOKEN", "short")
    with pytest.raises(UserError, match="EBT_POLICY_TOKEN"):
        read_token()
    file = tmp_path / "token"
    with pytest.raises(UserError, match="cannot be read"):
        read_token(file)
    file.write_text(TOKEN + "\n")
    assert read_token(file) == TOKEN


def test_a_second_controller_is_told_so_and_the_first_goes_on(url):
    with RemotePolicy(url) as policy:
        with pytest.raises(UserError, match="busy"):
            RemotePolicy(url).connect()
        assert policy.decide(state(), TIMEOUT_S).evaluations == 2
    with RemotePolicy(url) as policy:  # the first said goodbye
        assert policy.decide(state(), TIMEOUT_S).evaluations == 2


def test_another_version_of_the_protocol_is_refused(url):
    with raw(url) as peer:
        peer.send(wire.encode(Hello(wire.PROTOCOL + 1)))
        answer = hear(peer)
    assert isinstance(answer, Fault) and answer.code == "protocol"


@pytest.mark.parametrize(
    ("expect", "complaint"),
    [
        (Expectation(features={"observation.image": Feature((3,), "float32")}), "needs 'observation.state'"),
        (Expectation(features={STATE: Feature((4,), "float32")}), r"'observation.state' .*\(4,\)"),
        (Expectation(features={STATE: Feature((3,), "float32", "deg")}), "in rad.*in deg"),
        (Expectation(action=Feature((7,), "float32")), "the action"),
        (Expectation(fps=30.0), "10 ticks a second.*30"),
        (Expectation(normaliser_sha256="x" * 64), "normalisation is nnnnnnnnnnnn"),
        (Expectation(checkpoint_sha256="x" * 64), "checkpoint is cccccccccccc"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_by_name(url, expect, complaint):
    with pytest.raises(UserError, match=complaint), RemotePolicy(url, expect):
        pass
    fitting = Expectation({STATE: Feature((3,), "float32"), "more": Feature((), "bool")}, fps=10.0)
    with RemotePolicy(url, fitting) as policy:  # and the server is free again
        assert policy.welcome.policy == "fake"


def test_who_does_not_introduce_itself_is_dropped():
    with serving(FakeDecider(), hello_s=0.5) as url, raw(url) as peer:
        answer = hear(peer)
        assert isinstance(answer, Fault) and answer.code == "silent"


def test_a_stranger_writes_no_lines_of_its_own_into_the_log(url, caplog):
    with caplog.at_level("INFO"):
        for data in (b'{"type": "x"}', wire.encode(Hello(wire.PROTOCOL, "arm\nERROR forged"))):
            with raw(url) as peer:
                peer.send(data)
                hear(peer)
        with raw(url) as peer:
            peer.send(msgspec.msgpack.encode({"type": "x\nERROR forged"}))
            assert isinstance(hear(peer), Fault)
    text = [record.getMessage() for record in caplog.records]
    assert sum("forged" in line for line in text) == 2 and not any("\n" in line for line in text)
