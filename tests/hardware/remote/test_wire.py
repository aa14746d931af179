"""Messages are decoded as they were encoded; everything else is refused without using memory."""

import math
import random
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from ebt_policy.hardware.emulation.malformed import mutated
from ebt_policy.hardware.remote import wire
from ebt_policy.hardware.remote.wire import (
    Act,
    Array,
    Fault,
    Feature,
    Heartbeat,
    Hello,
    Observe,
    Range,
    TrainedRobot,
    Welcome,
    WireError,
    decode,
    encode,
)

DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")
finite = st.floats(allow_nan=False, allow_infinity=False)
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=6, max_side=4))
)
observations = st.builds(
    Observe,
    sequence=st.integers(0, 2**53),
    stamp=finite,
    tick=st.integers(0, 2**53),
    arrays=st.dictionaries(st.text(min_size=1, max_size=20), arrays.map(Array.of), min_size=1, max_size=4),
    deadline_s=st.none() | st.floats(1e-3, 10),
    reset=st.booleans(),
)


def samples() -> list[wire.Message]:
    """One message of each kind, with every optional field set."""
    feature = Feature((2,), "float32", "rad")
    return [
        Hello(1, "arm"),
        Welcome(
            1,
            "p",
            {"observation.state": feature},
            feature,
            2,
            8,
            "a" * 64,
            "b" * 64,
            2.0,
            10.0,
            3.5,
            TrainedRobot(("x", "y"), ("x.pos", "y.pos"), "so101_follower", Range((0.0,), (1.0,)), None),
        ),
        Observe(
            3,
            1.5,
            9,
            {
                "observation.state": Array.of(np.zeros((2, 2), np.float32)),
                "observation.images.top": Array.of(np.zeros((2, 3, 8, 8), np.uint8)),
            },
            0.1,
            True,
        ),
        Act(3, 1.5, Array.of(np.ones((8, 2), np.float32)), 0.1, 12.0, 2, -3.0, "residual", 4.5, True),
        Fault("policy", "The policy failed.", 3),
        Heartbeat(1.5),
    ]


@given(arrays)
@settings(max_examples=100, deadline=None)
def test_an_array_keeps_its_bits_dtype_and_shape(values):
    found = msgspec.msgpack.decode(msgspec.msgpack.encode(Array.of(values)), type=Array).numpy()
    assert found.dtype == values.dtype and found.shape == values.shape
    assert found.tobytes() == values.tobytes()  # NaN payloads too
    assert not found.flags.writeable


@given(observations)
@settings(max_examples=40, deadline=None)
def test_an_observation_survives(message):
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", samples(), ids=lambda m: type(m).__name__)
def test_every_message_survives(message):
    assert decode(encode(message)) == message


def test_big_endian_and_strided_arrays_arrive_with_their_values():
    values = np.arange(24, dtype=">f4").reshape(4, 6)[::2, ::-1]
    np.testing.assert_array_equal(Array.of(values).numpy(), values)


@pytest.mark.parametrize(
    "values",
    [
        np.array([object()]),
        np.array(["text"]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "f2"),
        np.zeros(2, complex),
        np.zeros(2, [("a", "f4")]),
        np.zeros((0, 3)),
        np.zeros((1,) * 7),
        np.zeros(wire.MAX_BYTES + 1, np.uint8),
        np.zeros((1, 3000, 3000), np.uint8),
    ],
    ids=lambda v: f"{v.dtype}{v.shape}",
)
def test_what_the_protocol_does_not_have_is_not_sent(values):
    with pytest.raises(WireError):
        Array.of(values)


def test_a_message_over_the_cap_is_neither_sent_nor_read():
    half = Array.of(np.zeros(wire.MAX_BYTES // 2, np.uint8))
    with pytest.raises(WireError) as caught:
        encode(Observe(0, 0.0, 0, {"a": half, "b": half}))
    assert caught.value.code == "too_large"
    with pytest.raises(WireError) as caught:
        decode(bytes(wire.MAX_BYTES + 1))
    assert caught.value.code == "too_large"


def test_floats_that_are_no_numbers_are_refused():
    for value in (math.nan, math.inf):
        raw = msgspec.msgpack.encode({"type": "heartbeat", "stamp": value})
        with pytest.raises(WireError) as caught:
            decode(raw)
        assert caught.value.code == "invalid"


def observe(**array: object) -> bytes:
    """An encoded Observe whose one array has some fields replaced."""
    fields = {"dtype": "float32", "shape": [2], "data": bytes(8)} | array
    return msgspec.msgpack.encode(
        {"type": "observe", "sequence": 0, "stamp": 0.0, "tick": 0, "arrays": {"x": fields}}
    )


# Headers that announce far more than follows, wrong types, and what numpy or pickle would have swallowed.
MALFORMED = [
    b"",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\x91" * 100_000,
    b"\x81\xa1x" + b"\x91" * 100_000,
    b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.",  # a pickle
    encode(samples()[0]) + b"\x00",
    observe(dtype="object"),
    observe(dtype="|O"),
    observe(dtype="V8"),
    observe(dtype="float16"),
    observe(dtype=7),
    observe(shape=[2**31, 2**31, 2**31, 2**31]),
    observe(shape=[2**40]),
    observe(shape=[2**31] * 6),
    observe(shape=[1] * 7),
    observe(shape=[-2]),
    observe(shape=[0]),
    observe(shape=[2.0]),
    observe(shape="2"),
    observe(shape=[3]),
    observe(data="text"),
    observe(data=[0] * 8),
    observe(extra=1),
    observe(dtype="bool", shape=[8], data=b"\x02" * 8),
    observe(dtype="uint8", shape=[1, 2049, 2049], data=bytes(2049 * 2049)),
    observe().replace(b"\x91\x02", b"\xdd\xff\xff\xff\xff\x02"),  # a shape of 4e9 entries
    observe().replace(b"\xc4\x08", b"\xc6\xff\xff\xff\xff"),  # 4 GiB of data, 8 bytes of which follow
    msgspec.msgpack.encode({"type": "observe"}),
    msgspec.msgpack.encode({"type": "no such"}),
    msgspec.msgpack.encode({"stamp": 0.0}),
    msgspec.msgpack.encode({"type": "heartbeat", "stamp": "0"}),
    msgspec.msgpack.encode({"type": "heartbeat", "stamp": 0.0, "more": 1}),
    msgspec.msgpack.encode({"type": "hello", "protocol": -1}),
    msgspec.msgpack.encode({"type": "fault", "code": "x", "message": ""}),
    msgspec.msgpack.encode([1, 2]),
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_message_is_one_wire_error_and_costs_no_memory(data):
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + 300_000
    finally:
        tracemalloc.stop()


def test_text_frames_are_refused():
    with pytest.raises(WireError):
        decode("hello")


def test_forty_thousand_damaged_messages_raise_nothing_but_wire_errors():
    draw = random.Random(1)
    good = [encode(message) for message in samples()]
    damaged = [mutated(draw.choice(good), draw) for _ in range(40_000)]
    refused = 0
    tracemalloc.start()
    try:
        for data in damaged:
            try:
                message = decode(data)
            except WireError:
                refused += 1
            else:  # the damage made another message of the protocol: it must be sound
                assert encode(message)
                for array in getattr(message, "arrays", {}).values():
                    assert array.numpy().nbytes == len(array.data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused > 25_000
    assert peak < 2_000_000
