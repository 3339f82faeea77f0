"""How a command fails: one line, a hint and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, Any

import click

from app.platform.domain.errors import PenstockError, Unreachable


class Exit(IntEnum):
    """Exit codes; `penstock --help` explains them."""

    OK = 0
    FAILED = 1  # tried, but failed or refused
    USAGE = 2  # click's own, for wrong options and arguments
    CONFIGURATION = 3
    UNREACHABLE = 4  # the service, its database or its Redis does not answer


class CommandFailure(click.ClickException):
    """Ends a command with what is wrong and what to do about it."""

    def __init__(self, message: str, hint: str | None = None, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print both lines to standard error."""
        file = file or sys.stderr
        click.echo(f"penstock: {self.message}", file=file)
        if self.hint:
            click.echo(f"  {self.hint}", file=file)


@contextmanager
def translate() -> Iterator[None]:
    """Turn Penstock's own errors into a CommandFailure."""
    try:
        yield
    except PenstockError as error:
        raise _failure(error) from error


def _failure(error: PenstockError) -> CommandFailure:
    from app.settings import ConfigError  # importing pydantic is slow: only when something went wrong

    if isinstance(error, ConfigError):
        where = error.file if error.line is None else f"{error.file}:{error.line}"
        return CommandFailure(f"{where}: {error.message}", f"Hint: {error.hint}", Exit.CONFIGURATION)
    return CommandFailure(
        str(error), code=Exit.UNREACHABLE if isinstance(error, Unreachable) else Exit.FAILED
    )
