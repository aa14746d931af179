"""Messages between a policy server and its client, the robot side: typed data in MessagePack, nothing executable.

A message is one of six structs with known fields. An array is a dtype from a fixed list, a shape and raw bytes. A declared
size is compared with the bytes received before memory is allocated, so decoding costs memory in proportion to the message.
Legend: T observation steps, n actions of one reply, A action dimension, S state dimension.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import msgspec
import numpy as np
from msgspec import Meta

PROTOCOL = 5  # 5: Act says when an episode is longer than its alarms were calibrated for
MAX_BYTES = 16 * 2**20  # of one encoded message
MAX_DIMS = 6
MAX_PIXELS = 2048 * 2048  # of one picture: the two largest of three or more dimensions
MAX_ARRAYS = 64  # in one observation
MAX_JOINTS = 1024
MAX_TASKS = 4096

Dtype = Literal["bool", "uint8", "int32", "int64", "float32", "float64"]
Shape = Annotated[tuple[Annotated[int, Meta(ge=1, le=2**31)], ...], Meta(max_length=MAX_DIMS)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Label = Annotated[str, Meta(max_length=256)]
Sentence = Annotated[str, Meta(max_length=1000)]
Names = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_JOINTS)]
Numbers = Annotated[tuple[float, ...], Meta(min_length=1, max_length=MAX_JOINTS)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
FaultCode = Literal[
    "malformed",  # no message of this protocol, or one that is not expected now; the connection ends
    "protocol",  # another version of the protocol; the connection ends
    "busy",  # another controller is connected; the connection ends
    "silent",  # nothing was heard for the heartbeat time; the connection ends
    "order",  # a sequence number that does not increase
    "observation",  # not what the policy was trained on
    "late",  # the deadline had passed before the policy could begin
    "policy",  # the policy failed
    "action",  # the policy's answer has another shape than declared, or is not finite
]

_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in Dtype.__args__}  # type: ignore[attr-defined]


class WireError(Exception):
    """Bytes that are not a message, or a message that may not be sent.

    code: "too_large" (over MAX_BYTES), "malformed" (not MessagePack) or "invalid" (not one of the messages).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A numpy array, little endian, C order. Dtype, shape and size are checked when it is created or decoded."""

    dtype: Dtype
    shape: Shape
    data: bytes

    def __post_init__(self) -> None:
        expected = math.prod(self.shape) * _DTYPES[self.dtype].itemsize  # Python integers: no overflow
        if expected != len(self.data):
            raise ValueError(
                f"{self.dtype} of shape {self.shape} takes {expected} bytes, found {len(self.data)}"
            )
        if len(self.shape) > 2 and math.prod(sorted(self.shape)[-2:]) > MAX_PIXELS:
            raise ValueError(f"a picture of shape {self.shape} has more than {MAX_PIXELS} pixels")
        if self.dtype == "bool" and self.data.translate(None, b"\x00\x01"):
            raise ValueError("a bool array holds bytes other than 0 and 1")

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Raises WireError for a dtype or shape that the protocol does not have."""
        name = values.dtype.name
        if name not in _DTYPES:
            raise WireError("invalid", f"Arrays of {name} are not sent; choose one of {', '.join(_DTYPES)}.")
        if values.ndim > MAX_DIMS or not values.size:
            raise WireError(
                "invalid", f"Arrays have 1 to {MAX_DIMS} dimensions, none empty; found {values.shape}."
            )
        if values.nbytes > MAX_BYTES:
            raise WireError("too_large", f"An array of {values.nbytes} bytes; at most {MAX_BYTES} are sent.")
        try:
            return cls(name, values.shape, values.astype(_DTYPES[name], copy=False).tobytes())  # type: ignore[arg-type]
        except ValueError as error:
            raise WireError("invalid", str(error)) from None

    def numpy(self) -> np.ndarray:
        """The array, read-only, without a copy."""
        return np.frombuffer(self.data, _DTYPES[self.dtype]).reshape(self.shape)


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape and dtype of one input or output at one tick. units: "" if unknown."""

    shape: Shape
    dtype: Dtype
    units: Label = ""

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}" + (f" in {self.units}" if self.units else "")


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lowest and highest value of each entry of a vector in the training data, in the data's units."""

    low: Numbers
    high: Numbers

    def __post_init__(self) -> None:
        pairs = list(zip(self.low, self.high, strict=False))
        if len(self.low) != len(self.high) or not all(
            -math.inf < low <= high < math.inf for low, high in pairs
        ):
            raise ValueError(
                "a range needs as many low as high values, finite, and none above its high value"
            )


class TrainedRobot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The robot of the training data, as far as the checkpoint knows it; None and "" if it does not.

    state_names (S), action_names (A): in the policy's column order. state, action: ranges in the data.
    """

    state_names: Names | None = None
    action_names: Names | None = None
    robot_type: Label = ""
    state: Range | None = None
    action: Range | None = None


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """Base of the six messages. Floats must be finite."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; expected a finite number")


class Hello(_Message, frozen=True):
    """The first message, from the client."""

    protocol: Count
    client: Label = ""


class Welcome(_Message, frozen=True):
    """The answer to Hello: inputs, outputs and identity of the policy. A client that does not fit disconnects.

    features: inputs at one tick, by LeRobot's names; an observation stacks n_obs_steps of them, oldest first. fps: ticks per
    second of the training data, None if unknown. heartbeat_s: a side that is silent for so long counts as dead.
    alarm_above: an Act with a score above it is an alarm; None without a monitor. robot: of the training data. tasks: sentences
    of the training data; none where the policy is not told its task.
    """

    protocol: Count
    policy: Label
    features: Annotated[dict[Name, Feature], Meta(min_length=1, max_length=MAX_ARRAYS)]
    action: Feature
    n_obs_steps: Annotated[int, Meta(ge=1, le=64)]
    n_action_steps: Annotated[int, Meta(ge=1, le=4096)]
    normaliser_sha256: Label
    checkpoint_sha256: Label
    heartbeat_s: Annotated[float, Meta(gt=0)]
    fps: Annotated[float, Meta(gt=0)] | None = None
    alarm_above: float | None = None
    robot: TrainedRobot = TrainedRobot()
    tasks: Annotated[tuple[Sentence, ...], Meta(max_length=MAX_TASKS)] = ()


class Observe(_Message, frozen=True):
    """An observation to decide on.

    sequence: increases with every observation of a connection. stamp: seconds of the client's monotonic clock. tick: of the
    client's control loop; the server shifts its last plan by the ticks that have passed. arrays: (T, ...) by feature.
    deadline_s: seconds for the decision, from arrival on. reset: drop the last plan, as at the start of an episode. task: the
    sentence of the task, "" for a policy that is not told it.
    """

    sequence: Count
    stamp: float
    tick: Count
    arrays: Annotated[dict[Name, Array], Meta(min_length=1, max_length=MAX_ARRAYS)]
    deadline_s: Annotated[float, Meta(gt=0)] | None = None
    reset: bool = False
    task: Sentence = ""


class Act(_Message, frozen=True):
    """The decision on one observation; sequence and stamp are those of the observation.

    actions: (n, A) in the robot's units, row 0 for the observed tick. wait_ms, decide_ms: time in the queue and in the
    policy. evaluations: forward passes of the network. energy: of the last plan, see
    `Trace.old_plan_energy`; None where there is none. stop_reason: why the policy stopped refining. score: of the
    episode so far (since the last reset, failed decision or new connection); None without a monitor, or if it is not finite. alarm: the score is above Welcome.alarm_above, or not a number.
    beyond: the episode is longer than the calibration covers, so alarms are more often false.
    """

    sequence: Count
    stamp: float
    actions: Array
    wait_ms: float
    decide_ms: float
    evaluations: Count
    energy: float | None = None
    stop_reason: Label = ""
    score: float | None = None
    alarm: bool = False
    beyond: bool = False


class Fault(_Message, frozen=True):
    """Why there is no decision, in the user's terms. sequence: of the observation concerned, if any."""

    code: FaultCode
    message: Annotated[str, Meta(max_length=1000)]
    sequence: Count | None = None


class Heartbeat(_Message, frozen=True):
    """Shows that the sender is alive; the server sends it back."""

    stamp: float


Message = Hello | Welcome | Observe | Act | Fault | Heartbeat

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Raises WireError "too_large" for a message that the other side would refuse."""
    data = _encoder.encode(message)
    if len(data) > MAX_BYTES:
        raise WireError("too_large", f"A message of {len(data)} bytes; at most {MAX_BYTES} are sent.")
    return data


def decode(data: bytes | str) -> Message:
    """The message in data. Raises WireError for anything that is not exactly one well-formed message."""
    if isinstance(data, str):
        raise WireError("malformed", "A text frame; messages are binary.")
    if len(data) > MAX_BYTES:
        raise WireError("too_large", f"A message of {len(data)} bytes; at most {MAX_BYTES} are taken.")
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError as error:
        raise WireError("invalid", str(error)[:300]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("malformed", str(error)[:300]) from None
