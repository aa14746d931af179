"""The operator's device that the options of `deploy` name."""

from __future__ import annotations

import time
from collections.abc import Callable

from lerobot.teleoperators.teleoperator import Teleoperator
from lerobot.teleoperators.utils import make_teleoperator_from_config

from ebt_policy.errors import UserError
from ebt_policy.hardware.body import Body
from ebt_policy.hardware.config_deploy import DeployConfig
from ebt_policy.hardware.control.commands import Command
from ebt_policy.hardware.sim.expert_teleop import ExpertTeleop
from ebt_policy.hardware.takeover.device import check_units, connect, device_for
from ebt_policy.hardware.takeover.leader import InlineLeader, Leader, LeaderThread

FIRST_READING_S = 3.0


def make_leader(
    config: DeployConfig,
    body: Body,
    on_command: Callable[[Command], None],
    teleop: Teleoperator | None = None,
) -> InlineLeader | None:
    """The connected device and what reads it; None where the options name none. The arm must be connected.

    teleop: instead of that of the options. Raises UserError where it does not fit the arm or gives no readings.
    """
    if teleop is None:
        if config.teleop is None:
            return None
        teleop = make_teleoperator_from_config(config.teleop)
    if isinstance(teleop, ExpertTeleop) and body.twin is not None:
        teleop.attach(body.twin)
    check_units(teleop, body.arm.robot)
    limits, options = body.arm.limits(), config.takeover
    if options.match_speed <= 0 or options.jog_speed <= 0:
        raise UserError("--takeover.match_speed and --takeover.jog_speed must be above 0.")
    widths = limits.high - limits.low
    device = device_for(teleop, body.arm.joints, widths, options.jog, options.jog_speed)
    connect(teleop)
    leader = Leader(teleop, device, body.arm.joints, widths, body.control_hz, options.match_speed, on_command)
    if body.simulated_time:
        return InlineLeader(leader, body.clock)
    reader = LeaderThread(leader, body.clock, body.control_hz)
    deadline = time.monotonic() + FIRST_READING_S
    while reader.poll().positions is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if reader.poll().positions is None:
        trouble = reader.poll().trouble or f"no reading within {FIRST_READING_S:g} s"
        reader.close()
        raise UserError(f"The teleoperator {teleop.name} cannot be read: {trouble}")
    return reader
