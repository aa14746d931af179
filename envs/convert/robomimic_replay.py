"""Replays recorded MuJoCo states in robosuite, to get observations and the success at the end."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.convert.robomimic_file import Recorded
from ebt_policy.envs.robosuite_tasks import STATE_KEYS, RobosuiteSimulator
from ebt_policy.errors import UserError

LAST = 11  # final states to check for success: robosuite records 10 ticks after it
LARGEST_SCENE = 10_000_000  # characters
GENERATORS = {"include", "extension", "plugin", "replicate", "composite", "flexcomp", "attach"}


class Replay(RobosuiteSimulator):
    """A simulator that is set to recorded states, with the recorded scene or the one that robosuite builds."""

    _scene: str | None = ""  # XML of the current scene; None: the one that robosuite builds

    @property
    def controller(self) -> dict[str, Any]:
        """The settings of the robot's controllers."""
        return self.env.robots[0].composite_controller_config

    def enter(self, demo: Recorded, where: str) -> None:
        """Load the scene of `demo`. Raises UserError, naming `where`, if it does not fit its states."""
        assert demo.states is not None
        if demo.scene != self._scene:
            if demo.scene is None:
                self._rebuild(where, demo.states)
            else:
                self._load(where, demo.scene)
            self._scene = demo.scene
        self._check_size(where, demo.states)

    def observe(self, demo: Recorded) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Robot states (T, 9) and object poses (T, E) of all recorded states."""
        rows: list[tuple[NDArray, NDArray]] = []
        assert demo.states is not None
        for state in demo.states:
            self._show(state)
            rows.append((self.state(), self.environment_state()))
        robot, objects = zip(*rows, strict=True)
        return np.stack(robot).astype(np.float32), np.stack(objects).astype(np.float32)

    def ends_solved(self, demo: Recorded) -> bool:
        """Whether the task is solved in one of the last states or after the last action (whose state is not recorded)."""
        assert demo.states is not None
        for state in demo.states[-LAST:]:
            self._show(state)
            if self.score().solved:
                return True
        self.tick(demo.actions[-1])
        return self.score().solved

    def _show(self, state: NDArray[np.float64]) -> None:
        self.env.sim.set_state_from_flattened(state)
        self.env.sim.forward()
        self._observation = self.env._get_observations(force_update=True)

    def _load(self, where: str, scene: str) -> None:
        """Load the recorded scene, with corrected paths of meshes and textures."""
        try:
            self.env.reset_from_xml_string(_checked(self.env.edit_model_xml(_parsed(scene))))
        # Missing files, wrong names and invalid XML raise many kinds of exceptions.
        except Exception as error:
            raise UserError(
                f"{where}: its model_file does not load as a scene of {type(self.env).__name__} in the installed "
                "robosuite. Expected robosuite 1.5's (robomimic's files that end in _v15). "
                f"Cause: {error}"
            ) from error

    def _rebuild(self, where: str, states: NDArray[np.float64]) -> None:
        """Build the scene with robosuite if the file has none. Only valid if the states determine all observations."""
        seen = []
        for seed in (1, 0):
            self.reset(seed)
            self._check_size(where, states)
            self._show(states[0])
            seen.append(dict(self._observation))
        unknown = [key for key in (*STATE_KEYS, *self._keys) if not np.allclose(seen[0][key], seen[1][key])]
        if unknown:
            raise UserError(
                f"{where}: the file holds no scene (model_file should be the XML itself, not a file name), and the "
                f"states do not tell {', '.join(unknown)}: {type(self.env).__name__} places these anew at each reset. "
                "A replay would invent them. Use a file that holds its scenes."
            )

    def _check_size(self, where: str, states: NDArray[np.float64]) -> None:
        model = self.env.sim.model
        expected = 1 + model.nq + model.nv
        if states.shape[1] != expected:
            raise UserError(
                f"{where}: its states have {states.shape[1]} numbers; {type(self.env).__name__} has {expected} (time, "
                f"{model.nq} positions, {model.nv} velocities). The file is of another robot, task or robosuite."
            )


def _parsed(scene: str) -> str:
    """`scene`, after checks that it is safe to parse: the file may be malicious. Raises ValueError."""
    if len(scene) > LARGEST_SCENE or "<!DOCTYPE" in scene:
        raise ValueError(f"the XML has entities or more than {LARGEST_SCENE:,} characters")
    root = ElementTree.fromstring(scene)
    if root.find("asset") is None:
        raise ValueError("the XML has no assets")
    strange = sorted({element.tag for element in root.iter()} & GENERATORS)
    if strange:
        raise ValueError(f"the XML uses {', '.join(strange)}, which no recorded scene needs")
    return scene


def _checked(scene: str) -> str:
    """`scene`, if all files that it names belong to robosuite. Raises ValueError."""
    import robosuite

    folder = Path(robosuite.__file__).parent.resolve()
    for element in ElementTree.fromstring(scene.encode()).iter():
        for attribute, value in element.attrib.items():
            if attribute.startswith("file") and not (
                Path(value).is_absolute() and Path(value).resolve().is_relative_to(folder)
            ):
                raise ValueError(f"<{element.tag} {attribute}='{value}'> is none of robosuite's files")
    return scene
