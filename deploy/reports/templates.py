"""Templates of all pages, with the filters that they share."""

from __future__ import annotations

from typing import Any

import jinja2

from dictpfl.deploy.units import human_bytes, human_count, human_factor, human_seconds, percent


def template(name: str) -> jinja2.Template:
    """Return a page's template, with the filters that all pages share."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dictpfl.deploy", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    filters: dict[str, Any] = {
        "bytes": human_bytes,
        "count": human_count,
        "seconds": human_seconds,
        "percent": percent,
        "factor": human_factor,
    }
    environment.filters |= filters
    return environment.get_template(name)
