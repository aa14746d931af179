"""What is no message of the protocol: mutations of good ones, invented ones, and damage of the frames around them."""

from __future__ import annotations

import random
import struct

import msgspec
import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote.wire import (
    MAX_BYTES,
    PROTOCOL,
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

_STATE = "observation.state"


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The message cut short, with flipped bits, with a piece repeated or overwritten, or with a huge header in it."""
    kind, place = draw.randrange(5), draw.randrange(len(data))
    if kind == 0:
        return data[:place]
    changed = bytearray(data)
    if kind == 1:
        for _ in range(draw.randint(1, 8)):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == 2:
        changed[place:place] = changed[draw.randrange(len(data)) :][: draw.randint(1, 40)]
    elif kind == 3:
        changed[place : place + draw.randint(1, 8)] = draw.randbytes(draw.randint(1, 8))
    else:
        header = draw.choice([b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"]) + draw.randbytes(4)
        changed[place : place + 1] = header
    return bytes(changed)


def good_messages() -> list[bytes]:
    """One encoded message of each kind, with every optional field set."""
    feature = Feature((2,), "float32", "rad")
    arrays = {
        _STATE: Array.of(np.zeros((2, 2), np.float32)),
        "observation.images.top": Array.of(np.zeros((2, 3, 8, 8), np.uint8)),
    }
    ranges = Range((-1.0, 0.0), (1.0, 2.0))
    robot = TrainedRobot(("x", "y"), ("x.pos", "y.pos"), "so101_follower", ranges, ranges)
    actions = Array.of(np.ones((8, 2), np.float32))
    return [
        encode(Hello(PROTOCOL, "arm")),
        encode(
            Welcome(
                PROTOCOL, "p", {_STATE: feature}, feature, 2, 8, "a" * 64, "b" * 64, 2.0, 10.0, 3.5, robot
            )
        ),
        encode(Observe(3, 1.5, 9, arrays, 0.1, True)),
        encode(Act(3, 1.5, actions, 0.1, 12.0, 2, -3.0, "residual", 4.5, True)),
        encode(Fault("policy", "The policy failed.", 3)),
        encode(Heartbeat(1.5)),
    ]


def is_malformed(data: bytes) -> bool:
    try:
        decode(data)
    except WireError:
        return True
    return False


def damaged_messages(count: int, draw: random.Random) -> list[bytes]:
    """So many mutations of good messages that `decode` refuses; those that are messages all the same are drawn again."""
    good, found = good_messages(), list[bytes]()
    while len(found) < count:
        data = mutated(draw.choice(good), draw)
        if is_malformed(data):
            found.append(data)
    return found


def invented_messages(count: int) -> list[bytes]:
    """So many from hypothesis: any bytes, any MessagePack, and structures that are nearly messages.

    Raises UserError where hypothesis is missing.
    """
    if not count:
        return []
    try:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st
    except ModuleNotFoundError:
        raise UserError("Inventing messages needs hypothesis: pip install hypothesis") from None
    leaf = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=20)
        | st.binary(max_size=40)
    )
    anything = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=8,
    )
    array = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["float32", "uint8", "bool", "object", "|O", "V8"]) | leaf,
            "shape": st.lists(st.integers(-2, 2**40), max_size=8) | leaf,
            "data": leaf,
        }
    )
    tag = st.sampled_from(["hello", "welcome", "observe", "act", "fault", "heartbeat", "pickle"])
    fields = ("protocol", "sequence", "stamp", "tick", "actions", "deadline_s", "code", "message", "more")
    nearly = st.fixed_dictionaries(
        {"type": tag, "arrays": st.dictionaries(st.text(max_size=10), array | anything, max_size=2)},
        optional=dict.fromkeys(fields, leaf),
    )
    found: dict[bytes, None] = {}

    encoded = st.one_of(anything, nearly).map(msgspec.msgpack.encode)

    def keep(data: bytes) -> None:
        if is_malformed(data):
            found[data] = None

    while len(found) < count:
        # A new function each time: hypothesis takes its settings once.
        collect = given(st.binary(max_size=200) | encoded)(lambda data: keep(data))
        settings(
            max_examples=count - len(found) + 50,  # some come twice
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck.__members__.values()),
        )(collect)()
    return list(found)[:count]


def large_messages(count: int) -> list[bytes]:
    """So many of the largest size there may be, all nesting, lists or one field, and of one byte more."""
    size = MAX_BYTES
    whole = (
        b"\x91" * size,
        b"\xdd" + struct.pack(">I", size - 5) + b"\x00" * (size - 5),
        b"\x81\xa1x\xc6" + struct.pack(">I", size - 8) + bytes(size - 8),
        bytes(size + 1),
    )
    return [whole[i % len(whole)] for i in range(count)]


def frame(data: bytes) -> bytes:
    """A client's binary websocket frame, masked with zeros."""
    size = len(data)
    if size < 126:
        header = bytes([0x82, 0x80 | size])
    elif size < 2**16:
        header = bytes([0x82, 0xFE]) + struct.pack(">H", size)
    else:
        header = bytes([0x82, 0xFF]) + struct.pack(">Q", size)
    return header + bytes(4) + data
