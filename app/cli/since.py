"""`--since`: how long ago, or an instant."""

from __future__ import annotations

import time

import click

from app.platform.domain.times import parse_duration, parse_instant


def parse_since(text: str) -> float:
    """Unix seconds of "2h" ago or of "2026-11-21T06:00:00Z". Raises UsageError."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        return parse_instant(text)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None
