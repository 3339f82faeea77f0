"""`penstock policy`: manages and tests access policies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.failure import CommandFailure
from app.cli.profile import audited, configuration, on_database, opened


@click.group("policy", short_help="manage and test access policies: who may run what, when, from where")
def group() -> None:
    """Manage and test access policies: who may run what, when, from where.

    \b
    penstock policy test --file rule.json --client team-a --model deepseek-chat --ip 192.168.1.7
    penstock policy add rule.json
    """


@group.command("list")
@on_database
def list_() -> None:
    """List policies as JSON lines.

    \b
    penstock policy list
    """
    from app.access.manage_policies import list_policies

    with opened() as database:
        policies = list_policies(database)
    for stored in policies:
        click.echo(stored.document)
    if not policies:
        click.echo("No policies. Add one with: penstock policy add FILE", err=True)


@group.command("add")
@on_database
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def add(file: Path) -> None:
    """Add the policy in FILE (JSON), or replace the one with its id. Takes effect within five seconds.

    Its zones must exist in the service's configuration, if that is known here.

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
    """Remove a policy.

    \b
    penstock policy remove office-hours
    """
    from app.access.manage_policies import remove_policy

    with opened() as database:
        remove_policy(database, policy_id)
        audited(database, "policy.remove", policy_id)
    click.echo("Removed.")


@group.command("test")
@on_database
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A policy as JSON; repeatable.",
)
@click.option("--client", default="", help="The calling client.")
@click.option("--team", default="", help="Its team.")
@click.option("--user", default="", help="The holder of the key.")
@click.option("--model", help="The requested model [default: a call without a model].")
@click.option("--upstream", "upstreams", multiple=True, help="An upstream that may serve it; repeatable.")
@click.option("--region", "regions", multiple=True, help="A region where it may be served; repeatable.")
@click.option("--action", default="tasks:write", show_default=True, help="The scope the call needs.")
@click.option("--ip", help="The caller's address.")
@click.option("--zone", "zones", multiple=True, help="A named network that contains the address; repeatable.")
@click.option("--at", help="Time of the call, such as 2026-11-21T10:00:00Z [default: now].")
@click.option("--max-tokens", type=int, help="The request's max_tokens [default: no limit].")
@click.option(
    "--default",
    "default",
    type=click.Choice(("allow", "deny")),
    help="The decision if no policy applies [default: allow with --file, else as in [access]].",
)
def test(files: tuple[Path, ...], default: Any, at: str | None, ip: str | None, **asked: Any) -> None:
    """Evaluate a call against the policies in these files, or the stored ones. Exit code 1 if denied.

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
            f"denied by {decision.rule}", "Add an allow policy that applies, or change the default."
        )
    click.echo(f"allowed by {decision.rule}")


def _document(file: Path) -> Any:
    try:
        return orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CommandFailure(f"{file}: not JSON: {error.msg}", "Write one policy as a JSON object.") from None
