"""Self-contained HTML pages from the templates of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ebt_policy.provenance import write_atomic


def write_html(path: Path, template: str, **context: Any) -> None:
    """Render a template with escaping and write the page atomically."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ebt_policy.eval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, environment.get_template(template).render(**context))
