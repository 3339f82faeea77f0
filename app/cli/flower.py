"""`penstock flower`: Flower with authentication, read-only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from app.cli import profile
from app.cli.failure import CommandFailure, Exit


@click.command("flower", short_help="run Flower, the view of queues, workers and tasks")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5555, show_default=True, help="Port to listen on.")
@click.option("--url-prefix", default="", help="Path prefix behind a proxy, such as /flower.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the profile [default: .penstock].")
def command(address: str, port: int, url_prefix: str, data: Path | None) -> None:
    """Run Flower, read-only with basic authentication, showing every backlog and key queue with its length.

    User and password come from PENSTOCK_FLOWER_AUTH=user:password, else from the profile in the data folder,
    where they are made when there are none. With PENSTOCK_DASHBOARD_URL its pages link back to the dashboard.
    Flower's own settings (FLOWER_AUTH, FLOWER_OAUTH2_KEY ...) are taken from the environment too.

    \b
    PENSTOCK_FLOWER_AUTH=ops:secret penstock flower --port 5555
    penstock flower --url-prefix /flower        behind a proxy
    """
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # Flower has its own /metrics
    from app.cli.flower_server import FlowerChoices, serve
    from app.composition.container import from_environment

    dashboard = os.environ.get("PENSTOCK_DASHBOARD_URL", "").rstrip("/")
    choices = FlowerChoices(address, port, credentials(os.environ, data), url_prefix.strip("/"), dashboard)
    serve(from_environment().celery, choices)


def credentials(environ: Mapping[str, str], data: Path | None) -> str:
    """`user:password` as set, as stored, or created now and stored. Raises CommandFailure."""
    given = environ.get("PENSTOCK_FLOWER_AUTH") or environ.get("FLOWER_BASIC_AUTH")
    if given:
        user, _, password = given.partition(":")
        if not user or not password:
            raise CommandFailure("PENSTOCK_FLOWER_AUTH is not user:password", code=Exit.CONFIGURATION)
        return given
    folder = profile.data_folder(environ, data)
    known = profile.load(folder)
    if not known.flower_auth:
        known = replace(known, flower_auth=f"penstock:{secrets.token_urlsafe(12)}")
        profile.save(folder, known)
        click.echo(f"Created a user and password for Flower, stored in {folder / 'profile.json'}")
    return known.flower_auth
