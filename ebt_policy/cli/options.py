"""Options that several commands of `ebt-policy` share. Light to import."""

from importlib import resources
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from ebt_policy.errors import UserError
from ebt_policy.suggestions import did_you_mean

Overrides = Annotated[
    tuple[str, ...],
    UseAppendAction,
    arg(name="set", aliases=["-s"], metavar="KEY=VALUE", help="Any option by its dotted name; repeatable."),
]


def key_values(items: tuple[str, ...]) -> dict[str, object]:
    """("policy.width=256",) -> {"policy.width": 256}; values are read as YAML. Raises UserError without "="."""
    import yaml

    pairs = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--set expects KEY=VALUE, found '{item}'.")
        pairs[key.strip()] = yaml.safe_load(value)
    return pairs


def config_file(name_or_path: str | Path, what: str, folder: str = "", prefix: str = "") -> Path:
    """A YAML file by its path, or one that comes with the package by its name, with or without .yaml.

    what: it is, in words. folder: below the package's configs. prefix: of the names that belong to this kind. Raises
    UserError, with close names, where there is neither.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = Path(str(resources.files("ebt_policy"))) / "configs" / folder
    names = sorted(file.stem for file in shipped.glob(f"{prefix}*.yaml"))
    if path.name == str(path) and path.stem in names and path.suffix in ("", ".yaml"):
        return shipped / f"{path.stem}.yaml"
    raise UserError(
        f"There is no {what} '{name_or_path}'.{did_you_mean(path.stem, names)} Give the path of a YAML file, or a name: "
        f"{', '.join(names)}."
    )
