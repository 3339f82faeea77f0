"""`penstock tasks`: show, list, cancel and retry tasks."""

from __future__ import annotations

from typing import Any

import click
import orjson

from app.cli.failure import CommandFailure
from app.cli.profile import parse_since
from app.cli.remote import Remote, with_remote
from app.cli.tables import new_table, print_tables

STATUSES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
_json = click.option("--json", "as_json", is_flag=True, help="Print the raw JSON response.")


@click.group("tasks", short_help="show, list, cancel and retry tasks")
def group() -> None:
    """Show, list, cancel and retry tasks through the HTTP API.

    \b
    penstock tasks list --status failed
    penstock tasks get task_06f3... --wait 30
    penstock tasks retry --reason upstream_unavailable --since 2h
    """


@group.command("get")
@click.argument("task_id")
@click.option("--wait", default=0.0, help="Seconds to wait for it to finish.")
@_json
@with_remote
def get(remote: Remote, task_id: str, wait: float, as_json: bool) -> None:
    """Show one task.

    \b
    penstock tasks get task_06f3... --wait 30
    """
    task = remote.get(f"/v1/tasks/{task_id}", wait=wait or None)
    click.echo(_pretty(task)) if as_json else _show(task)


@group.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only tasks with this status.")
@click.option("--batch", help="Only tasks of this batch.")
@click.option("--after", help="Continue after this task, the last of the previous page.")
@click.option("--limit", default=20, show_default=True, help="Maximum number of tasks.")
@_json
@with_remote
def list_(
    remote: Remote, status: str | None, batch: str | None, after: str | None, limit: int, as_json: bool
) -> None:
    """List tasks, one page at a time.

    \b
    penstock tasks list --status queued --limit 100
    """
    page = remote.get("/v1/tasks", status=status, batch_id=batch, after=after, limit=limit)
    if as_json:
        click.echo(_pretty(page))
        return
    shown = new_table("task", "status", "model", "created", "attempts")
    for task in page["data"]:
        shown.add_row(task["id"], task["status"], task["model"], task["created_at"], _attempts(task))
    print_tables(shown)
    if page.get("has_more"):
        click.echo(f"More: --after {page['data'][-1]['id']}")


@group.command("cancel")
@click.argument("task_ids", nargs=-1, required=True)
@with_remote
def cancel(remote: Remote, task_ids: tuple[str, ...]) -> None:
    """Cancel tasks. Waiting ones end at once; a running one finishes, and its result is kept if it succeeds.

    \b
    penstock tasks cancel task_06f3... task_06f4...
    """
    for task_id in task_ids:
        task = remote.post(f"/v1/tasks/{task_id}/cancel")
        click.echo(f"{task['id']} {task['status']}")


@group.command("failed")
@click.option("--reason", help="Only tasks with this error code, such as upstream_timeout.")
@click.option("--after", help="Continue after this task, the last of the previous page.")
@click.option("--limit", default=20, show_default=True, help="Maximum number of tasks.")
@_json
@with_remote
def failed(remote: Remote, reason: str | None, after: str | None, limit: int, as_json: bool) -> None:
    """List failed tasks with their reasons, newest first.

    \b
    penstock tasks failed --reason upstream_unavailable
    """
    page = remote.get("/v1/tasks", status="failed", reason=reason, after=after, limit=limit)
    if as_json:
        click.echo(_pretty(page))
        return
    shown = new_table("task", "model", "finished", "reason", "message")
    for task in page["data"]:
        error = task["error"] or {}
        shown.add_row(
            task["id"],
            task["model"],
            task["finished_at"],
            error.get("code") or "",
            error.get("message") or "",
        )
    print_tables(shown)
    if page.get("has_more"):
        click.echo(f"More: --after {page['data'][-1]['id']}")


@group.command("retry")
@click.argument("task_ids", nargs=-1)
@click.option("--reason", help="All tasks that failed with this error code.")
@click.option(
    "--since", help='All tasks that failed since: "2h", "1d", or a time such as 2026-11-21T06:00:00Z.'
)
@with_remote
def retry(remote: Remote, task_ids: tuple[str, ...], reason: str | None, since: str | None) -> None:
    """Rerun failed tasks: by id, or all with a reason, since a time, or both.

    Each becomes a new task, admitted like any submission; the failed one stays as it is. For lines of a batch use
    `penstock retry`.

    \b
    penstock tasks retry task_06f3...
    penstock tasks retry --reason upstream_unavailable --since 2h
    """
    if bool(task_ids) == bool(reason or since):
        raise click.UsageError("give task ids, or --reason, --since or both")
    for task_id in task_ids:
        click.echo(f"{task_id} is rerun as {remote.post(f'/v1/tasks/{task_id}/retry')['id']}")
    if task_ids:
        return
    body = {"reason": reason, "since": parse_since(since) if since else None}
    wish = {name: value for name, value in body.items() if value is not None}
    count = 0
    while True:
        done = remote.post("/v1/tasks/retry", wish)
        count += done["retried"]
        if not done["has_more"] or done["refused"]:
            break
    click.echo(f"{count:,} tasks rerun.")
    if done["refused"]:
        raise CommandFailure(done["refused"]["message"], "Repeat the command later.")


def _show(task: dict[str, Any]) -> None:
    for name in ("id", "status", "model", "created_at", "started_at", "finished_at", "batch_id", "custom_id"):
        if task.get(name) is not None:
            click.echo(f"{name:<12} {task[name]}")
    click.echo(f"{'attempts':<12} {_attempts(task)}")
    for name in ("error", "queue", "callback", "usage"):
        if task.get(name):
            click.echo(f"{name:<12} {orjson.dumps(task[name]).decode()}")
    if answer := _answer(task):
        click.echo(f"\n{answer}")


def _answer(task: dict[str, Any]) -> str:
    """The text of the first choice; "" if there is none."""
    try:
        return str(task["result"]["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError):
        return ""


def _attempts(task: dict[str, Any]) -> str:
    return str(task.get("attempts") or 0)


def _pretty(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
