"""`penstock tasks`: look at, list and cancel tasks."""

from __future__ import annotations

from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from app.cli.remote import Remote, with_remote

STATUSES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as it came.")


@click.group("tasks", short_help="look at, list and cancel tasks")
def group() -> None:
    """Look at, list and cancel tasks, over the service's HTTP API.

    \b
    penstock tasks list --status failed
    penstock tasks get task_06f3... --wait 30
    """


@group.command("get")
@click.argument("task_id")
@click.option("--wait", default=0.0, help="Seconds to wait for its end.")
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
@click.option("--status", type=click.Choice(STATUSES), help="Only those in this state.")
@click.option("--batch", help="Only those of this batch.")
@click.option("--after", help="Only those after this task: the last of the page before.")
@click.option("--limit", default=20, show_default=True, help="How many at most.")
@_json
@with_remote
def list_(
    remote: Remote, status: str | None, batch: str | None, after: str | None, limit: int, as_json: bool
) -> None:
    """List tasks, page by page.

    \b
    penstock tasks list --status queued --limit 100
    """
    page = remote.get("/v1/tasks", status=status, batch_id=batch, after=after, limit=limit)
    if as_json:
        click.echo(_pretty(page))
        return
    table = Table("task", "status", "model", "created", "attempts", box=None, header_style="bold")
    for task in page["data"]:
        table.add_row(task["id"], task["status"], task["model"], task["created_at"], _attempts(task))
    Console().print(table)
    if page.get("has_more"):
        click.echo(f"More: --after {page['data'][-1]['id']}")


@group.command("cancel")
@click.argument("task_ids", nargs=-1, required=True)
@with_remote
def cancel(remote: Remote, task_ids: tuple[str, ...]) -> None:
    """Cancel tasks: those that wait at once; one that runs is let finish, and a success of it is kept.

    \b
    penstock tasks cancel task_06f3... task_06f4...
    """
    for task_id in task_ids:
        task = remote.post(f"/v1/tasks/{task_id}/cancel")
        click.echo(f"{task['id']} {task['status']}")


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
    """The text of the first choice; "" where there is none."""
    try:
        return str(task["result"]["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError):
        return ""


def _attempts(task: dict[str, Any]) -> str:
    return str(task.get("attempts") or 0)


def _pretty(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
