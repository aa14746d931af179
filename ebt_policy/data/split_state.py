"""A processor step for LeRobot's loops that know one state vector only, such as lerobot-rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lerobot.configs.types import PipelineFeatureType, PolicyFeature
from lerobot.processor.pipeline import ObservationProcessorStep, ProcessorStepRegistry
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE


@dataclass
@ProcessorStepRegistry.register(name="ebt_split_state_processor")
class SplitStateProcessorStep(ObservationProcessorStep):
    """Splits observation.state (..., S + E) into observation.state (S) and observation.environment_state (E).

    Leaves every other observation as it is: one that has an environment state, or a state of another size.
    """

    state_size: int
    environment_size: int

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        state = observation.get(OBS_STATE)
        whole = self.state_size + self.environment_size
        if state is None or OBS_ENV_STATE in observation or state.shape[-1] != whole:
            return observation
        parts = {OBS_STATE: state[..., : self.state_size], OBS_ENV_STATE: state[..., self.state_size :]}
        return observation | parts

    def get_config(self) -> dict[str, Any]:
        return {"state_size": self.state_size, "environment_size": self.environment_size}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """The policy's own features are those after the split."""
        return features
