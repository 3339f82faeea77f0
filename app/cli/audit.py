"""`penstock audit`: exports and verifies the audit log."""

from __future__ import annotations

from typing import Any

import click
import orjson

from app.cli.failure import CommandFailure
from app.cli.profile import on_database, opened


@click.group("audit", short_help="export the audit log and verify that it is complete")
def group() -> None:
    """Export the audit log (who did what) and verify that nothing was changed or removed.

    \b
    penstock audit verify
    penstock audit export --client team-a --since 2026-11-01T00:00:00Z > team-a.jsonl
    """


@group.command("verify")
@on_database
@click.option("--since", metavar="FIRST..LAST:HASH", help="What an earlier verification printed.")
def verify(since: str | None) -> None:
    """Verify the whole hash chain; exit code 1 if it is broken.

    Prints FIRST..LAST:HASH. Keep it outside the database, and give it to a later verification as --since: then a chain
    that somebody rewrote or shortened shows, too.

    \b
    penstock audit verify
    penstock audit verify --since "$(tail -1 /mnt/elsewhere/penstock-audit)"
    """
    from app.access.audit_log import verify as check
    from app.access.domain.audit import ChainCopy

    try:
        copy = None if since is None else ChainCopy.parse(since)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None
    with opened() as database:
        found = check(database, copy)
    if found.fault is not None:
        raise CommandFailure(
            f"the chain is broken at entry {found.fault.number}: {found.fault.what}",
            "Compare it with an export or a backup: somebody changed the table.",
        )
    click.echo(f"{found.entries:,} entries verified, {found.unlinked:,} not yet linked", err=True)
    click.echo(str(found.copy))


@group.command("export")
@on_database
@click.option("--since", help="Start of the range, such as 2026-11-21T06:00:00Z.")
@click.option("--until", help="End of the range, exclusive.")
@click.option("--client", "client_id", help="Id of a client.")
@click.option("--team", help="Name of a team.")
@click.option("--key", "key_id", help="Id of an API key.")
@click.option("--action", help='An action or its beginning, such as "POST /v1/admin".')
@click.option("--task", "task_id", help="Id of a task, batch, client, key or policy.")
@click.option("--status", type=int, help="HTTP status.")
@click.option("--limit", type=click.IntRange(1), help="Only the last N entries.")
def export(since: str | None, until: str | None, limit: int | None, **asked: Any) -> None:
    """Print entries as JSON lines, oldest first.

    \b
    penstock audit export --client team-a --since 2026-11-01T00:00:00Z
    """
    from app.access.audit_log import AuditFilter, as_json, entries

    wanted = AuditFilter(since=_instant("--since", since), until=_instant("--until", until), **asked)
    with opened() as database:
        for kept in entries(database, wanted, limit):
            click.echo(orjson.dumps(as_json(kept)).decode())


def _instant(option: str, text: str | None) -> float | None:
    from app.platform.domain.times import parse_instant

    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
