"""Records of the doctor: one fault, and all that was read, checked and found."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ebt_policy.data.doctor.looks import Look

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One fault. episode and frame: the first place where it shows, None where it concerns all of them.

    An error makes training fail or learn nonsense; a warning deserves a look and may be right for this robot.
    """

    severity: Severity
    feature: str
    episode: int | None
    frame: int | None
    message: str
    remedy: str


@dataclass
class Examination:
    """What was read, what was checked, and the faults found, errors first."""

    repo_id: str
    folder: Path
    robot_type: str | None
    fps: float  # frames a second
    episodes: int = 0
    frames: int = 0
    cameras: dict[str, str] = field(default_factory=dict)  # name -> "480 x 640, video"
    features: dict[str, str] = field(
        default_factory=dict
    )  # other observations and actions -> "6: pan, lift, ..."
    tasks: dict[str, int] = field(default_factory=dict)  # text of the task -> frames
    task_episodes: dict[str, int] = field(default_factory=dict)  # text of the task -> episodes
    checks: list[str] = field(default_factory=list)
    seconds: float = 0.0  # that the examination took
    findings: list[Finding] = field(default_factory=list)
    seen: dict[str, list[Look]] = field(default_factory=dict, repr=False)  # camera -> its episodes, looked at

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def duration_s(self) -> float:
        """Length of all episodes together, seconds."""
        return self.frames / self.fps
