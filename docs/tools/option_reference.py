"""The option reference of the documentation, made from the dataclasses that hold the options.

An option's text stands in its class: as a docstring under the field, as a comment, or as "name: text" in the docstring of the
class. A text may begin with its unit in square brackets.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from dataclasses import MISSING, Field, dataclass
from typing import Any

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.configuration_matched_baseline import MatchedBaselineConfig
from ebt_policy.hardware import config_deploy
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig, SafetyOptions
from ebt_policy.hardware.sim.config_sim_robot import SimRobotConfig
from ebt_policy.training.recipe import CorrectionsRecipe, DatasetRecipe, OptimizerRecipe, TrainRecipe

POLICY: dict[str, type] = {
    "The EBT policy": EBTConfig,
    "Chunk, network and training, of EBT and the baselines": ChunkPolicyConfig,
    "The matched baselines": MatchedBaselineConfig,
}
OTHERS: dict[str, type] = {
    "Recipes of `ebt-policy train`": TrainRecipe,
    "`dataset` of a recipe": DatasetRecipe,
    "`corrections` of a recipe": CorrectionsRecipe,
    "`optimizer` of a recipe": OptimizerRecipe,
    "`ebt-policy deploy`": config_deploy.DeployConfig,
    "`policy` of deploy": config_deploy.PolicyOptions,
    "`streams` of deploy": config_deploy.StreamOptions,
    "`record` of deploy": config_deploy.RecordOptions,
    "`safety` of deploy, and of `--robot.type=ebt_safe`": SafetyOptions,
    "`--robot.type=ebt_safe`": SafeRobotConfig,
    "`--robot.type=ebt_sim`, the twin": SimRobotConfig,
}


@dataclass(frozen=True)
class Option:
    """One option as the reference shows it; unit and text are "" where the source has none."""

    name: str
    unit: str
    default: str
    text: str


def options(cls: type) -> list[Option]:
    """The options that a dataclass itself declares, in the order of the source, without inherited ones."""
    declared = inspect.get_annotations(cls)
    own = [field for field in dataclasses.fields(cls) if field.name in declared]
    texts = _texts_in_docstring(cls.__doc__ or "", [field.name for field in own]) | _texts_at_fields(cls)
    found = []
    for field in own:
        text = " ".join(texts.get(field.name, "").split())
        unit = re.match(r"\[(?P<unit>[^]]+)\] (?P<text>.*)", text)
        found.append(
            Option(field.name, unit["unit"], _default(field), unit["text"])
            if unit
            else Option(field.name, "", _default(field), text)
        )
    return found


def _texts_at_fields(cls: type) -> dict[str, str]:
    """What stands at each field in the source: a docstring under it, else a comment beside it, else one above it."""
    source = textwrap.dedent(inspect.getsource(cls))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    whole_lines = {n for n in comments if source.splitlines()[n - 1].lstrip().startswith("#")}
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for node, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        beside = [comments[n] for n in range(node.lineno, (node.end_lineno or 0) + 1) if n in comments]
        above: list[str] = []
        while (line := node.lineno - 1 - len(above)) in whole_lines:
            above.insert(0, comments[line])
        is_docstring = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        docstring = str(after.value.value) if is_docstring else ""
        if text := docstring or " ".join(beside) or " ".join(above):
            texts[node.target.id] = text
    return texts


def _texts_in_docstring(docstring: str, names: list[str]) -> dict[str, str]:
    """{"speed": "part of the trained speed.", ...} of a docstring that says "speed: part of the trained speed. fps: ..."."""
    label = "|".join(map(re.escape, names))
    pieces = re.split(rf"(?:^|(?<=\s))((?:{label})(?:,? (?:and )?(?:{label}))*):\s", docstring)
    texts = {}
    for labels, text in zip(pieces[1::2], pieces[2::2], strict=True):
        for name in re.findall(rf"\b(?:{label})\b", labels):
            texts[name] = text.strip().rstrip(";").strip()
    return texts


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return repr(field.default)
    if field.default_factory is MISSING:
        return "required"
    made = field.default_factory()
    if dataclasses.is_dataclass(made):
        return type(made).__name__
    if isinstance(made, dict):
        made = {key: getattr(value, "value", value) for key, value in made.items()}
    return repr(made)


def render() -> str:
    """The page, as Markdown."""
    parts = [
        "# Options",
        "Made from the dataclasses at build time. Policy options are set with `--set policy.NAME=VALUE` in `ebt-policy train`, "
        "`--policy.NAME=VALUE` in LeRobot's commands, and `--set NAME=VALUE` in `eval` and `serve`.",
    ]
    for title, cls in (POLICY | OTHERS).items():
        rows = options(cls)
        units = any(row.unit for row in rows)
        parts.append(f"## {title}\n\n`{cls.__module__}.{cls.__name__}`")
        if not any(row.text for row in rows):
            parts.append(" ".join((cls.__doc__ or "").split()))
        lines = [f"| option | {'unit | ' if units else ''}default | meaning and reason |"]
        lines.append(f"|---|{'---|' if units else ''}---|---|")
        for row in rows:
            unit = f"{_cell(row.unit)} | " if units else ""
            lines.append(f"| `{row.name}` | {unit}`{_cell(row.default)}` | {_cell(row.text)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(render())
