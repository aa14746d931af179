"""The README.md of a policy on the Hugging Face Hub: what it is, how to install and use it, data, results, limits."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from lerobot.configs.policies import PreTrainedConfig

PAPERS = {"ebt": {"title": "EBT-Policy", "url": "https://arxiv.org/abs/2510.27545"}}
SUMMARIES = {
    "ebt": "An EBT-Policy for imitation learning: a transformer gives one scalar energy to an observation and a chunk of "
    "actions, and the policy acts by refining a chunk in a few function evaluations. Made with "
    "[LeRobot](https://github.com/huggingface/lerobot) and its plugin `lerobot_policy_ebt`.",
    "matched_baseline": "A baseline for EBT-Policy on the same encoder and trunk, of the plugin `lerobot_policy_ebt` for "
    "[LeRobot](https://github.com/huggingface/lerobot).",
}


def model_card(
    config: PreTrainedConfig,
    *,
    repo_id: str | None,
    dataset: str | None,
    license: str | None = None,
    tags: list[str] | None = None,
    data_facts: str = "",
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> ModelCard:
    """The card of a policy with this config.

    repo_id: where it will lie. dataset: repo id of the training data. training: settings to list. evaluation: what
    `ebt-policy eval --json` wrote. calibration: episodes, source, alpha, low and high of the rate of false alarms.
    """
    data = ModelCardData(
        license=license or "apache-2.0",
        library_name="lerobot",
        pipeline_tag="robotics",
        tags=sorted({"robotics", "lerobot", config.type, *(tags or ())}),
        model_name=config.type,
        datasets=dataset,
    )
    steps = f"{config.n_obs_steps} observation step(s); {getattr(config, 'n_action_steps', 1)} actions executed of each plan"
    template = files("ebt_policy").joinpath("templates/model_card.md.j2").read_text(encoding="utf-8")
    from jinja2 import Environment, StrictUndefined

    body = Environment(undefined=StrictUndefined, trim_blocks=True).from_string(template)
    text = body.render(
        repo_id=repo_id,
        summary=SUMMARIES.get(
            config.type, f"A `{config.type}` policy of LeRobot, trained with `ebt-policy`."
        ),
        paper=PAPERS.get(config.type),
        inputs=config.input_features or {},
        outputs=config.output_features or {},
        action_names=getattr(config, "action_feature_names", None),
        fps=getattr(config, "dataset_fps", None),
        robot_type=getattr(config, "robot_type", None),
        chunk=steps,
        dataset=dataset,
        data_facts=data_facts,
        training=training,
        evaluation=evaluation,
        calibration=calibration,
    )
    return ModelCard(f"---\n{data}\n---\n\n{text}")
