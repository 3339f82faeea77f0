"""`penstock version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

PARTS = ("celery", "kombu", "redis", "flower", "flask", "gunicorn", "sqlalchemy", "psycopg")


def penstock_version() -> str:
    """Our own version; "unknown" in a checkout that was never installed."""
    return _version("penstock")


@click.command("version", short_help="which version this is, and of what")
def command() -> None:
    """Print the versions of Penstock and of the parts that matter in a report.

    \b
    penstock version
    """
    click.echo(f"penstock {penstock_version()}")
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for part in PARTS:
        click.echo(f"{part} {_version(part)}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
