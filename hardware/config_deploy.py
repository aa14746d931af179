"""Options of `ebt-policy deploy`, read by LeRobot's own parser so that its robots and cameras are named as everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.robots.config import RobotConfig
from lerobot.teleoperators.config import TeleoperatorConfig

from ebt_policy.hardware.safety.config_safe_robot import SafetyOptions
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig


@dataclass(kw_only=True)
class PolicyOptions:
    """path: a run, a checkpoint, USER/NAME[@REVISION] on the Hub, or shipped:NAME. server: instead, the ws:// address of `ebt-policy serve`; token_file: for it.
    calibration: a file of `ebt-policy calibrate`; with it the policy alarms, and takes the recovery actions of `ladder` when it
    does: hold, then ask for a human, unless said otherwise. Not with a server, which has its own (`serve --calibration`).
    stop: "budget" thinks for max_evaluations; "energy" for one where the energy of the last plan is as low as in half of
    the successful decisions, by the calibration, else for max_evaluations. task: the sentence of the task, for a policy that is
    told it. set: any option of the policy. joints: names of the policy's joints in the
    order of its actions, for a checkpoint that says none, or others than the robot's. rtc: real-time chunking: what the arm does while
    the policy thinks is fixed in the new plan, and what follows is pulled to the old one, less and less. false: the new plan knows
    nothing of the old one, and takes over within --blend_s. Either way nothing changes where planning takes no time. A policy
    that cannot do it, or is on a server, is blended. Not with a calibration.
    """

    path: str = ""
    server: str = ""
    token_file: str | None = None
    device: str = "cpu"  # torch device of the policy
    max_evaluations: int | None = None  # most network evaluations of one plan; None: as trained
    n_action_steps: int | None = None  # ticks executed of each plan; None: as trained
    calibration: str | None = None
    ladder: list[str] | None = None  # recovery actions in order; None: hold, ask
    stop: str = "budget"
    task: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    joints: list[str] | None = None
    rtc: bool = False


@dataclass(kw_only=True)
class StreamOptions:
    """aligned: for data whose joints were measured when its pictures were taken; LeRobot's were not (see
    `RobotObservationSource`). Times in seconds: max_age_s: an older picture is stale. max_skew_s: largest difference between the
    pictures of one observation. frozen_s: the same picture for so long means a frozen camera; null for files. latency_s: from
    light to picture, by camera (`--measure_latency`). actuation_s: from command to motion, where the actions in the data are
    measured motion and not commands.
    """

    max_age_s: float = 0.3
    max_skew_s: float = 0.15
    frozen_s: float | None = 1.0
    latency_s: dict[str, float] = field(default_factory=dict)
    actuation_s: float = 0.0
    aligned: bool = False


@dataclass(kw_only=True)
class RecordOptions:
    """root: folder of the LeRobot dataset that is written ("": none); a later run appends to it. task: as LeRobot's sets say it."""

    root: str = ""
    repo_id: str = "local/deployed"  # name of the dataset that is written
    task: str = ""


@dataclass(kw_only=True)
class TakeoverOptions:
    """match_speed: of a leader's motors when it is moved to the arm's pose, part of a range per second. jog: for a gamepad or a
    keyboard: its outputs or keys and the joint that each moves, "-joint" for the other way; null: a gamepad moves the first three
    joints and the gripper, a keyboard each joint by two digits. jog_speed: part of a range per second.
    """

    match_speed: float = 0.25
    jog: dict[str, str] | None = None
    jog_speed: float = 0.1


@dataclass(kw_only=True)
class DeployConfig:
    """fps: of the policy's training data: another rate than the checkpoint says is refused unless other_fps; by default
    that of the checkpoint, the twin's, or 30. speed: part of the trained speed: actions are due later,
    and limits are lower; 1 in simulation, .25 on an arm unless said otherwise. control_hz: of the loop, by default 50 or, in
    simulated time, fps. deadline_s: for one plan. seconds: longest episode. viewer: none, rerun. unattended: on an arm,
    begin the next episode without asking whether the scene is ready; without a terminal nobody could be asked.
    task: the sentence of the task, for the policy and for the dataset that is recorded, where those have none of their own.
    teleop: a LeRobot teleoperator, to take over with when the policy alarms or a key is pressed. ask_timeout_s: the episode ends
    when the arm asks and nobody answers for this long.
    check: test everything and move nothing. measure_latency: move one joint a little, and say what to put into --streams.
    """

    policy: PolicyOptions = field(default_factory=PolicyOptions)  # see below
    robot: RobotConfig = field(
        default_factory=SimRobotConfig
    )  # options of any LeRobot robot; the twin by default
    safety: SafetyOptions = field(default_factory=SafetyOptions)  # see below
    streams: StreamOptions = field(default_factory=StreamOptions)  # see below
    record: RecordOptions = field(default_factory=RecordOptions)  # see below
    teleop: TeleoperatorConfig | None = None  # options of any LeRobot teleoperator
    takeover: TakeoverOptions = field(default_factory=TakeoverOptions)  # see below
    fps: float | None = None
    other_fps: bool = False  # play the policy at another rate than that of its training data
    unattended: bool = False
    speed: float | None = None
    control_hz: float | None = None
    deadline_s: float = 0.5
    blend_s: float = 0.1  # seconds over which a new plan takes over from the old one
    smooth_s: float = 0.0  # commands are means of the plan from so many seconds before to as long after, .1 is enough; 0: off
    patience_s: float = 3.0  # seconds without a plan, or without joint readings, before the arm stops
    ask_timeout_s: float = 120.0
    episodes: int = 1  # how many, one after the other
    seconds: float = 60.0
    seed: int = 0  # of the policy's noise and of the twin's first episode
    viewer: str = "none"
    output: str = "runs/deploy"  # folder for events, episodes and the options of the run
    task: str = ""
    check: bool = False
    measure_latency: bool = False

    def __post_init__(self) -> None:
        self.policy.task = self.policy.task or self.task
        self.record.task = self.record.task or self.task
