"""Logs: one line for each event, with the ids of task, batch, client and request where they are known. Never a
prompt, never a secret.

An exception is logged as its kind and its places. Its message is left out, and so are the values of variables, as both
may hold what a client wrote.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_MOST_FRAMES = 12  # the innermost ones


FORMAT = "PENSTOCK_LOG_FORMAT"


def configure_logs(level: int = logging.INFO, environ: Mapping[str, str] = os.environ) -> None:
    """Set up structlog for this process: lines on standard error. Calling it again changes nothing.

    `PENSTOCK_LOG_FORMAT=json`: each line an object; else for people.
    """
    as_json = environ.get(FORMAT) == "json"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            without_values,
            structlog.processors.JSONRenderer()
            if as_json
            else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def without_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace `exc_info` by the kind and the places of the exception and of what led to it."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is not None:
        event["error"] = " <- ".join(_cause_text(cause) for cause in _causes(error))
    return event


def _cause_text(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
    places = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__module__}.{type(error).__qualname__} at {places}"


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found
