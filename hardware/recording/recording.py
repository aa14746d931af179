"""Records a deployed policy as LeRobot episodes: passes observations and commands of the control loop to the `Recorder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.data.interventions import INTERVENTION
from ebt_policy.errors import UserError
from ebt_policy.hardware.config_deploy import RecordOptions
from ebt_policy.hardware.control.episode import Sent
from ebt_policy.hardware.recording.episode_writer import DatasetSpec
from ebt_policy.hardware.recording.recorder import Recorder
from ebt_policy.hardware.sensing.observer import ENVIRONMENT, PICTURES, STATE, Observer

ACTION = "action"


class Recording:
    """Records the policy's observations, the commands that were sent, and every plan in the episode's log. Never waits in real time."""

    def __init__(
        self,
        options: RecordOptions,
        fps: float,
        observer: Observer,
        needs: Mapping[str, tuple[int, ...]],
        joints: Sequence[str],
        robot: str,
        on_event: Callable[[Any], None] | None = None,
        interventions: bool = False,
        patient: bool = False,
    ) -> None:
        """Waits until frames can be written. interventions: with a column that says which frames are the operator's. patient: wait
        for the disk instead of dropping frames, where time is simulated. Raises UserError where frames cannot be written.
        """
        if fps != int(fps):
            raise UserError(f"A dataset has a whole number of frames a second; found {fps}.")
        self._joints, self._task = tuple(f"{name}.pos" for name in joints), options.task or "deployed"
        features: dict[str, Any] = {}
        for name, shape in needs.items():
            if name.startswith(PICTURES):
                features[name] = {
                    "dtype": "video",
                    "shape": (*shape[1:], shape[0]),
                    "names": ["height", "width", "channels"],
                }
            else:
                names = {STATE: observer.states, ENVIRONMENT: observer.objects}[name]
                features[name] = {"dtype": "float32", "shape": shape, "names": list(names)}
        features[ACTION] = {"dtype": "float32", "shape": (len(self._joints),), "names": list(self._joints)}
        self._interventions, self._patient = interventions, patient
        if interventions:
            features[INTERVENTION] = {"dtype": "bool", "shape": (1,), "names": None}
        spec = DatasetSpec(Path(options.root), options.repo_id, int(fps), features, robot)
        self._recorder = Recorder(spec, on_event=on_event)
        self._recorder.ready()

    def add(self, sent: Sent) -> None:
        """One tick of the policy."""
        frame = {
            name: value.transpose(1, 2, 0) if name.startswith(PICTURES) else value
            for name, value in sent.observation.values.items()
        }
        frame[ACTION] = np.array([sent.action[name] for name in self._joints], np.float32)
        if self._interventions:
            frame[INTERVENTION] = np.array([sent.intervention])
        if self._patient:
            self._recorder.wait_for_room()
        self._recorder.add(frame, self._task, sent.observation.stamp)

    def note(self, facts: Mapping[str, Any]) -> None:
        """Writes a plan's energy, cost and alarm, or an event of a takeover, to the episode's log."""
        self._recorder.note(facts)

    def end(self, success: bool | None) -> None:
        """Ends the episode; it is saved in the background."""
        self._recorder.end_episode(success)

    def close(self) -> None:
        """Waits until all episodes are saved. Raises UserError where one was not."""
        if not self._recorder.close():
            raise UserError(
                f"Not all that was to be recorded was saved. {self.failed or 'The disk or the encoder took too long.'}"
            )

    @property
    def failed(self) -> str:
        """Why nothing more is recorded; "" as long as it is."""
        return self._recorder.reason
