"""Options that several commands of `ebt-policy` share. Light to import."""

from typing import Annotated

from tyro.conf import UseAppendAction, arg

from ebt_policy.errors import UserError

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
