"""What both sides of a policy server hold each other to: features, rate, model, token. Each check says what to change.

Legend: T observation steps, n actions of one reply, A action dimension.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote.wire import PROTOCOL, Array, Feature, Welcome

TOKEN_VARIABLE = "EBT_POLICY_TOKEN"
MIN_TOKEN = 16  # characters


@dataclass(frozen=True)
class Expectation:
    """What the arm's side relies on; None and "" are not compared.

    features: what the robot observes, by LeRobot's names; more than the policy needs is fine. action: what it takes.
    fps: ticks a second of the control loop. The hashes (hexadecimal) pin the policy that was tried out. watched: replies
    must say whether they are an alarm.
    """

    features: Mapping[str, Feature] = field(default_factory=dict)
    action: Feature | None = None
    fps: float | None = None
    normaliser_sha256: str = ""
    checkpoint_sha256: str = ""
    watched: bool = False

    def check(self, welcome: Welcome) -> None:
        """Raises UserError with the first thing in which the policy is not what the arm's side relies on."""
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
        if self.fps and welcome.fps and abs(self.fps - welcome.fps) > 1e-6:
            raise UserError(
                f"The policy was trained at {welcome.fps:g} ticks a second; the control loop runs at {self.fps:g}. Its "
                "actions would play at the wrong speed: set the loop to the policy's rate."
            )
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


def _check_feature(name: str, policys: Feature, robots: Feature) -> None:
    other_units = policys.units and robots.units and policys.units != robots.units
    if policys.shape != robots.shape or policys.dtype != robots.dtype or other_units:
        raise UserError(f"The policy has {name} as {policys}; the robot has it as {robots}. Make them agree.")


def check_observation(welcome: Welcome, arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """{feature: (T, ...)} of what the policy needs. Raises UserError where something is missing, of another shape or
    dtype, or not finite.
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
    """Actions (n, A) as declared. Raises UserError for another shape and for what is not finite."""
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
    """Whether only this computer reaches the address. A name other than localhost counts as reachable."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None) -> None:
    """Raises UserError for an address that other computers reach without a token."""
    if token is None and not is_loopback(host):
        raise UserError(
            f"Other computers could command the arm through {host}. Give a token with --token-file or in "
            f"{TOKEN_VARIABLE}, or stay on 127.0.0.1."
        )


def read_token(file: Path | None = None) -> str | None:
    """The shared secret in the file, else in the environment variable EBT_POLICY_TOKEN; None without either.

    Raises UserError for a file that cannot be read and for a secret short enough to be guessed.
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
    """Whether an Authorization header carries the token, compared in constant time."""
    return token is None or hmac.compare_digest((header or "").encode(), f"Bearer {token}".encode())
