"""`penstock policy`: policies by attribute, kept and tried."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.failure import CommandFailure
from app.cli.profile import audited, configuration, on_database, opened


@click.group("policy", short_help="who may run what, when, from where: keep and try policies")
def group() -> None:
    """Who may run what, when, from where.

    \b
    penstock policy test --file rule.json --client team-a --model deepseek-chat --ip 192.168.1.7
    penstock policy add rule.json
    """


@group.command("list")
@on_database
def list_() -> None:
    """List policies, one JSON document a line.

    \b
    penstock policy list
    """
    from app.access.manage_policies import list_policies

    with opened() as database:
        for stored in list_policies(database):
            click.echo(stored.document)


@group.command("add")
@on_database
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def add(file: Path) -> None:
    """Keep the policy in FILE (JSON), in place of the one of its id; in force within five seconds.

    Zones that it names must stand in the service's configuration, where that is known here.

    \b
    penstock policy add rule.json
    """
    from app.access.manage_policies import put_policy
    from app.platform.ports import SystemClock
    from app.settings import load_settings

    settings = load_settings(configuration(), os.environ)
    zones = settings.access.zones if settings.path else None
    with opened() as database:
        stored = put_policy(database, SystemClock(), _document(file), zones)
        audited(database, "policy.add", stored.id)
    click.echo(stored.id)


@group.command("remove")
@on_database
@click.argument("policy_id")
def remove(policy_id: str) -> None:
    """Take a policy away.

    \b
    penstock policy remove office-hours
    """
    from app.access.manage_policies import remove_policy

    with opened() as database:
        remove_policy(database, policy_id)
        audited(database, "policy.remove", policy_id)
    click.echo("It is gone.")


@group.command("test")
@on_database
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A policy as JSON; may be given several times.",
)
@click.option("--client", default="", help="The client that asks.")
@click.option("--team", default="", help="Its team.")
@click.option("--user", default="", help="Who holds the key.")
@click.option("--model", help="The model it asks for; left out: a call that runs none.")
@click.option("--upstream", "upstreams", multiple=True, help="One that may serve it.")
@click.option("--region", "regions", multiple=True, help="One where it may be served.")
@click.option("--action", default="tasks:write", show_default=True, help="The scope that the call needs.")
@click.option("--ip", help="Where it comes from.")
@click.option("--zone", "zones", multiple=True, help="A named network that holds that address.")
@click.option("--at", help="When: such as 2026-11-21T10:00:00Z; left out: now.")
@click.option("--max-tokens", type=int, help="What the request allows; left out: no limit.")
@click.option(
    "--default",
    "default",
    type=click.Choice(("allow", "deny")),
    help="When no policy speaks of it [default: allow for --file, else what [access] says].",
)
def test(files: tuple[Path, ...], default: Any, at: str | None, ip: str | None, **asked: Any) -> None:
    """Try: with the policies in these files, or else with those that are kept. Exit code 1 when denied.

    \b
    penstock policy test --file rule.json --user team_a --model deepseek-chat --ip 192.168.1.7 --default deny
    """
    import time

    from app.access.domain.policy import CallFacts, evaluate
    from app.access.manage_policies import check_policy, list_policies
    from app.platform.domain.times import parse_instant
    from app.settings import load_settings

    try:
        when = time.time() if at is None else parse_instant(at)
    except ValueError as error:
        raise click.UsageError(f"--at: {error}") from None
    if files:
        policies = [check_policy(_document(file), file.name) for file in files]
        default = default or "allow"
    else:
        default = default or load_settings(configuration(), os.environ).access.default
        with opened() as database:
            policies = [check_policy(orjson.loads(s.document), s.id) for s in list_policies(database)]
    sets: dict[str, Any] = {name: frozenset(asked.pop(name)) for name in ("upstreams", "regions", "zones")}
    decision = evaluate(policies, CallFacts(at=when, address=ip, **sets, **asked), default)
    if not decision.allowed:
        raise CommandFailure(
            f"denied by {decision.rule}", "An allow that applies, or another default, would let it pass"
        )
    click.echo(f"allowed by {decision.rule}")


def _document(file: Path) -> Any:
    try:
        return orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CommandFailure(f"{file}: not JSON: {error.msg}", "Write one policy, a JSON object") from None
