"""Form of a log line: JSON, or for people. Nothing of ours is imported here: a task takes `common` from its bundle."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping

import structlog

LOG_JSON = "DICTPFL_LOG_JSON"
"""Environment variable of a supervised process; `1`: JSON."""
_FLOWER = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) *: *(.*)", re.DOTALL)


def wants_json(environment: Mapping[str, str]) -> bool:
    """Tell whether a process with this environment logs JSON."""
    return environment.get(LOG_JSON) == "1"


def configure(*, as_json: bool, verbose: bool = True) -> None:
    """Log to standard error: our own events, and what libraries log."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    level = logging.INFO if verbose else logging.ERROR
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def as_json_line(line: str, program: str) -> str:
    """Return one line of a program's output as a JSON object; one that is JSON already keeps its fields."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "event" not in entry:
        match = _FLOWER.match(line)
        level, text = (match[1].lower(), match[2]) if match else ("info", line)
        entry = {"event": text, "level": level, "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    return json.dumps(entry | {"program": program})
