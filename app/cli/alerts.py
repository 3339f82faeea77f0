"""`penstock alerts`: lists firing alerts and tests their channels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from app.cli.failure import CommandFailure, Exit
from app.cli.profile import configuration, database_url, on_database, opened
from app.cli.tables import new_table, print_tables
from app.platform.domain.times import to_rfc3339
from app.reporting.domain.alerts import Alert, AlertState, sentence
from app.settings.domain.alert_rules import RULES, Severity

if TYPE_CHECKING:
    from app.reporting.domain.alerts import Channel


@click.group("alerts", short_help="list firing alerts and test their channels")
def group() -> None:
    """List firing alerts and test the channels in `[alerts]` of penstock.toml.

    Works on the database itself (DATABASE_URL, else the data folder's). Each alert is explained in docs/runbook.md.

    \b
    penstock alerts list
    penstock alerts test --severity critical
    """


@group.command("list")
@on_database
@click.option("--all", "everything", is_flag=True, help="Include alerts resolved within the last week.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def list_(everything: bool, as_json: bool) -> None:
    """List firing and pending alerts, the most severe first, and channels that fail.

    \b
    penstock alerts list --all
    """
    from app.reporting.read_overview import read_alerts

    with opened() as database:
        alerts, channels = read_alerts(database)
    found = [a for a in alerts if everything or a.state is not AlertState.RESOLVED]
    order = list(reversed(Severity))
    found.sort(key=lambda alert: (order.index(alert.severity), alert.place))
    if as_json:
        for alert in found:
            click.echo(orjson.dumps({**_fields(alert), "says": _says(alert)}).decode())
        return
    _print(found)
    for channel in channels:
        if channel.error is not None:
            click.echo(f"Channel {channel.name} fails: {channel.error}")


@group.command("test")
@on_database
@click.option(
    "--severity", type=click.Choice([s.value for s in Severity]), help="Only the channels of this severity."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration [default: the running service's, $PENSTOCK_CONFIG, ./penstock.toml].",
)
def test(severity: str | None, config: Path | None) -> None:
    """Send a test message to every channel and call the heartbeat URL. Exit code 1 if one fails.

    \b
    penstock alerts test
    penstock alerts test --severity disaster
    """
    from app.composition.container import Container
    from app.settings import load_settings

    settings = load_settings(configuration(config), {**os.environ, "DATABASE_URL": database_url()})
    parts = Container(settings)
    sending = parts.sending_alerts
    try:
        fared: list[Channel] = []
        for one in Severity if severity is None else (Severity(severity),):
            title = f"Penstock {one}: a test"
            fared += sending.deliver(one, title, "This is how an alert reaches you. Nothing is wrong.")
        if severity is None:
            fared += sending.beat_now()
    finally:
        sending.close()
        parts.database.close()
    _tell(fared)


def _tell(fared: Sequence[Channel]) -> None:
    if not fared:
        hint = 'Write [alerts] with critical = ["env:NAME"] into penstock.toml; NAME holds an apprise URL'
        raise CommandFailure("no channel is configured", hint, Exit.CONFIGURATION)
    for channel in fared:
        click.echo(f"{channel.name}: {'delivered' if channel.error is None else channel.error}")
    if any(channel.error is not None for channel in fared):
        raise CommandFailure("a channel failed", "Test its address with: apprise -t test -b test URL")


def _print(found: Sequence[Alert]) -> None:
    if not found:
        click.echo("No alerts are firing.")
        return
    shown = new_table("alert", "of", "severity", "state", "since", "says")
    for alert in found:
        since = to_rfc3339(alert.since)
        shown.add_row(alert.rule, alert.subject, alert.severity.value, alert.state.value, since, _says(alert))
    print_tables(shown)


def _fields(alert: Alert) -> dict[str, object]:
    names = ("rule", "subject", "severity", "state", "value")
    return {**{name: getattr(alert, name) for name in names}, "since": to_rfc3339(alert.since)}


def _says(alert: Alert) -> str:
    rules = {rule.name: rule for rule in RULES}
    return sentence(alert, rules[alert.rule]) if alert.rule in rules else f"its reading is {alert.value:g}"
