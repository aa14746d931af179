"""Checks between a policy server and its client: features, joints, rate, checkpoint, token. Each error says what to change.

Legend: T observation steps, n actions of one reply, A action dimension, S state dimension.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote.wire import PROTOCOL, Array, Feature, Range, TrainedRobot, Welcome
from ebt_policy.inference.robot_contract import Ranges, RobotContract, check_rate, check_units, reorder

TOKEN_VARIABLE = "EBT_POLICY_TOKEN"
MIN_TOKEN = 16  # characters


@dataclass(frozen=True)
class Expectation:
    """What the robot side relies on; None, "" and empty fields are not compared.

    features: what the robot observes, by LeRobot's names; it may be more than the policy needs. action: what it takes.
    fps: ticks per second of the control loop. state_names (S), action_names (A): joints in the robot's order; they are put
    into the policy's order and back. joint_ranges: {joint: (low, high)} that the robot can reach, in its units; needs
    action_names. The hashes (hexadecimal) pin the policy that was tested. watched: replies must say whether they are an
    alarm.
    """

    features: Mapping[str, Feature] = field(default_factory=dict)
    action: Feature | None = None
    fps: float | None = None
    state_names: Sequence[str] = ()
    action_names: Sequence[str] = ()
    joint_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    normaliser_sha256: str = ""
    checkpoint_sha256: str = ""
    watched: bool = False

    def check(self, welcome: Welcome) -> None:
        """Raises UserError for the first difference between the server's policy and what the robot side relies on."""
        if welcome.protocol != PROTOCOL:
            raise UserError(
                f"The server speaks version {welcome.protocol} of the protocol, this client version {PROTOCOL}. Install the "
                "same version of the package on both sides."
            )
        for name, needed in welcome.features.items() if self.features else ():
            if name not in self.features:
                raise UserError(
                    f"The policy needs '{name}' ({needed}), which this robot does not give; it gives "
                    f"{', '.join(sorted(self.features))}. Serve a policy trained for this robot, or rename the feature."
                )
            _check_feature(f"'{name}'", needed, self.features[name])
        if self.action is not None:
            _check_feature("the action", welcome.action, self.action)
        if self.fps:
            check_rate(welcome.fps, self.fps, "the rate of the control loop")
        self.columns(welcome)
        self._check_ranges(welcome)
        if self.watched and welcome.alarm_above is None:
            raise UserError(
                "Alarms are expected, and this server does not watch its policy. Start it with `ebt-policy serve "
                "--calibration FILE`, with a file of `ebt-policy calibrate`."
            )
        hashes = (
            ("normalisation", self.normaliser_sha256, welcome.normaliser_sha256),
            ("checkpoint", self.checkpoint_sha256, welcome.checkpoint_sha256),
        )
        for what, wanted, found in hashes:
            if wanted and wanted != found:
                raise UserError(
                    f"The server's {what} is {found[:12] or 'unknown'}…; expected {wanted[:12]}…. It serves another policy "
                    "than this client was set up for: serve that one, or change the hash that is expected."
                )

    @property
    def names_joints(self) -> bool:
        return bool(self.state_names or self.action_names)

    def columns(self, welcome: Welcome) -> Columns:
        """How to reorder states and actions. Raises UserError if robot and policy do not have the same joints."""
        trained, state, action = welcome.robot, None, None
        if self.state_names and trained.state_names:
            state = reorder(self.state_names, trained.state_names, "numbers of the state")
        if self.action_names and trained.action_names:
            action = np.argsort(reorder(self.action_names, trained.action_names))  # the way back
        return Columns(state, action)

    def _check_ranges(self, welcome: Welcome) -> None:
        names, data = welcome.robot.action_names, contract_of(welcome).action
        if not (self.joint_ranges and names and data) or not self.action_names:
            return
        robots = [
            self.action_names[int(i)] for i in reorder(self.action_names, names)
        ]  # in the policy's order
        if all(name in self.joint_ranges for name in robots):
            low, high = np.array([self.joint_ranges[name] for name in robots], float).T
            check_units(data, low, high, robots)


@dataclass(frozen=True)
class Columns:
    """Column indices: state (S) puts the robot's state into the policy's order, action (A) the policy's actions into the
    robot's. None: leave as they are.
    """

    state: np.ndarray | None = None
    action: np.ndarray | None = None


def trained_robot(contract: RobotContract) -> TrainedRobot:
    """A checkpoint's contract as it is sent."""

    def sent(ranges: Ranges | None) -> Range | None:
        return None if ranges is None else Range(tuple(ranges.low.tolist()), tuple(ranges.high.tolist()))

    return TrainedRobot(
        contract.state_names,
        contract.action_names,
        contract.robot_type or "",
        sent(contract.state),
        sent(contract.action),
    )


def contract_of(welcome: Welcome) -> RobotContract:
    """The contract of the server's checkpoint, for the checks of the robot side."""

    def received(sent: Range | None) -> Ranges | None:
        return None if sent is None else Ranges(np.array(sent.low), np.array(sent.high))

    robot = welcome.robot
    return RobotContract(
        robot.state_names,
        robot.action_names,
        welcome.fps,
        robot.robot_type or None,
        received(robot.state),
        received(robot.action),
    )


def _check_feature(name: str, policys: Feature, robots: Feature) -> None:
    other_units = policys.units and robots.units and policys.units != robots.units
    if policys.shape != robots.shape or policys.dtype != robots.dtype or other_units:
        raise UserError(f"The policy has {name} as {policys}; the robot has it as {robots}. Make them agree.")


def check_observation(welcome: Welcome, arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Returns {feature: (T, ...)} of all features that the policy needs.

    Raises UserError if one is missing, has another shape or dtype, or is not finite.
    """
    found = {}
    for name, feature in welcome.features.items():
        if name not in arrays:
            raise UserError(
                f"The policy needs '{name}' ({feature}), and the observation has only {', '.join(sorted(arrays))[:300]}."
            )
        values = arrays[name].numpy()
        shape = (welcome.n_obs_steps, *feature.shape)
        if values.shape != shape or values.dtype.name != feature.dtype:
            raise UserError(
                f"The policy needs '{name}' as {feature.dtype} of shape {shape}: {welcome.n_obs_steps} ticks, oldest first. "
                f"The observation has {values.dtype.name} of shape {values.shape}."
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"'{name}' holds NaN or infinity, so nothing was decided. Look at that sensor.")
        found[name] = values
    return found


def check_actions(welcome: Welcome, actions: np.ndarray) -> np.ndarray:
    """Returns actions (n, A) in the declared dtype. Raises UserError for another shape and for values that are not finite."""
    values = np.asarray(actions)
    shape = (welcome.n_action_steps, *welcome.action.shape)
    if values.shape != shape or values.dtype.kind not in "fiu":
        raise UserError(
            f"The policy gave actions of {values.dtype} {values.shape}; expected numbers {shape}."
        )
    values = values.astype(welcome.action.dtype)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError("The policy gave an action that is not a finite number, so it was not sent.")
    return values


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach the address. A host name other than localhost counts as reachable by others."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None) -> None:
    """Raises UserError if other computers can reach the address and there is no token."""
    if token is None and not is_loopback(host):
        raise UserError(
            f"Other computers could command the arm through {host}. Give a token with --token-file or in "
            f"{TOKEN_VARIABLE}, or stay on 127.0.0.1."
        )


def read_token(file: Path | None = None) -> str | None:
    """Reads the shared secret from the file, or else from the environment variable EBT_POLICY_TOKEN; None without either.

    Raises UserError if the file cannot be read, or the secret is short enough to be guessed.
    """
    if file is None and TOKEN_VARIABLE not in os.environ:
        return None
    where = f"the file {file}" if file else f"the environment variable {TOKEN_VARIABLE}"
    try:
        token = (file.read_text("utf-8") if file else os.environ[TOKEN_VARIABLE]).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The token cannot be read from {where}: {error}") from None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable():
        raise UserError(
            f"The token in {where} must be at least {MIN_TOKEN} printable ASCII characters. Make one: openssl rand -hex 32"
        )
    return token


def authorised(header: str | None, token: str | None) -> bool:
    """Whether an Authorization header is exactly "Bearer <token>". All of it is compared, in constant time."""
    return token is None or hmac.compare_digest((header or "").encode(), f"Bearer {token}".encode())
