"""A processor step: the sentence of each sample becomes a vector that the policy is conditioned on.

LeRobot hands the sentence over in the same way everywhere, as `task` beside the observations: in `lerobot-train`,
`lerobot-eval`, `lerobot-rollout --task` and in our own commands. The step is saved with the checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor.pipeline import ProcessorStep, ProcessorStepRegistry
from torch import Tensor

from ebt_policy.errors import UserError
from ebt_policy.language.encoders import OBS_TASK, TASK, Vectors, encode, is_closed, similarity


@dataclass
@ProcessorStepRegistry.register(name="ebt_task_processor")
class TaskProcessorStep(ProcessorStep):
    """Adds observation.task (B, D): the vector of each sample's sentence. Every sentence is encoded once.

    encoder: see `encoders`. sentences: those of the training data. Their vectors are saved with the step, so the encoder's own
    package is needed for other sentences only.
    """

    encoder: str
    sentences: list[str]
    _vectors: Tensor | None = field(default=None, init=False, repr=False)  # (N, D) of `sentences`
    _unseen: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)  # sentence -> (D,)

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Raises UserError where there is no sentence, or one that a closed set does not have."""
        observation = transition.get(TransitionKey.OBSERVATION)
        if not isinstance(observation, Mapping) or OBS_TASK in observation:
            return transition
        rows = next((len(value) for value in observation.values() if isinstance(value, Tensor)), 1)
        given = (transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}).get(TASK)
        new: Any = transition.copy()  # LeRobot's keys are an enumeration, which its TypedDict does not know
        new[TransitionKey.OBSERVATION] = {**observation, OBS_TASK: self.vectors(self._chosen(given, rows))}
        return new

    def vectors(self, sentences: Sequence[str]) -> Tensor:
        """(B, D) of B sentences."""
        known = self._known()
        numbers = {sentence: number for number, sentence in enumerate(self.sentences)}
        if all(sentence in numbers for sentence in sentences):
            return known[[numbers[sentence] for sentence in sentences]]
        return torch.stack([known[numbers[s]] if s in numbers else self._other(s) for s in sentences])

    def _known(self) -> Tensor:
        if self._vectors is None:
            self._vectors = torch.from_numpy(encode(self.encoder, self.sentences))
        return self._vectors

    def _chosen(self, given: Any, rows: int) -> list[str]:
        """One sentence for each of the B rows. Without any, the only one that there is."""
        if isinstance(given, str):
            given = [given]
        if not given or not any(given):
            if len(self.sentences) > 1:
                raise UserError(
                    f"This policy does several tasks, and nothing says which. Give the task as a sentence (--task in most "
                    f"commands), one of: {listed(self.sentences)}"
                )
            given = self.sentences
        return [str(sentence) for sentence in given] if len(given) > 1 else [str(given[0])] * rows

    def _other(self, sentence: str) -> Tensor:
        """The vector (D,) of a sentence that is not in the training data; says so once."""
        if sentence in self._unseen:
            return self._unseen[sentence]
        if is_closed(self.encoder):
            raise UserError(
                f"The task '{sentence}' is not one that this policy was trained on (task_encoder={self.encoder} knows no "
                f"others). Known: {listed(self.sentences)}"
            )
        vector = encode(self.encoder, [sentence])
        nearest, cosine = nearest_sentence(vector, self._known().numpy(), self.sentences)
        warnings.warn(
            f"The task '{sentence}' is not in the training data. The most similar one that is: '{nearest}' (similarity "
            f"{cosine:.2f}; 1 is the same).",
            stacklevel=2,
        )
        self._unseen[sentence] = torch.from_numpy(vector[0])
        return self._unseen[sentence]

    def get_config(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "sentences": list(self.sentences)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"vectors": self._known()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._vectors = state["vectors"].to("cpu", torch.float32)

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """The sentence is no feature of the data: nothing changes."""
        return features


def nearest_sentence(vector: Vectors, known: Vectors, sentences: Sequence[str]) -> tuple[str, float]:
    """The sentence whose vector among `known` (N, D) is most similar to `vector` (1, D), and the cosine."""
    cosines = similarity(vector, known)[0]
    best = int(np.argmax(cosines))
    return sentences[best], float(cosines[best])


def listed(sentences: Sequence[str], most: int = 12) -> str:
    """Sentences in quotes, the first few of many."""
    shown = ", ".join(f"'{sentence}'" for sentence in sentences[:most])
    return shown + (f" and {len(sentences) - most} more" if len(sentences) > most else "") + "."
