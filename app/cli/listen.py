"""`penstock listen`: a receiver for trying out callbacks."""

from __future__ import annotations

import signal
import threading
from datetime import datetime

import click
import orjson
from rich.console import Console
from rich.text import Text

from app.cli.failure import CommandFailure, Exit
from app.cli.listener import Listener, Receipt
from app.cli.supervisor import lifeline

__all__ = ["Listener", "Receipt", "command", "listen"]


@click.command("listen", short_help="receive callbacks, verify and print them")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0: any free one."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    envvar="PENSTOCK_CALLBACK_SECRET",
    metavar="whsec_...",
    help="Verify with this secret; twice while one is rotated [PENSTOCK_CALLBACK_SECRET].",
)
@click.option(
    "--status",
    type=click.IntRange(200, 599),
    default=200,
    show_default=True,
    help="Answer this to what verifies, to see what Penstock then does.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of colours.")
def listen(port: int, host: str, secrets: tuple[str, ...], status: int, as_json: bool) -> None:
    """Receive callbacks until stopped; verify their signatures and print them.

    Callbacks go to this machine only when the operator allows it (callbacks.allow_networks).

    \b
    penstock listen --secret whsec_...
    penstock listen --status 503          # and watch the retries
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    console = Console(highlight=False, soft_wrap=True)
    show = _print_json if as_json else _Printer(console, status)
    try:
        listener = Listener(secrets, host=host, port=port, status=status, heard=show)
    except ValueError as error:
        raise CommandFailure(str(error), code=Exit.USAGE) from error
    except OSError as error:
        raise CommandFailure(
            f"cannot listen on {host}:{port}: {error.strerror}", "Name another by --port."
        ) from error
    with listener:
        click.echo(f"Listening at {listener.url}", err=as_json)
        if not secrets:
            click.echo("Without --secret nothing is verified.", err=True)
        lifeline.ready()
        stop.wait()


command = listen


def _print_json(receipt: Receipt) -> None:
    line = {
        "at": receipt.at,
        "id": receipt.id,
        "verified": receipt.verified,
        "problem": receipt.problem,
        "event": receipt.event or None,
    }
    click.echo(orjson.dumps(line).decode())


class _Printer:
    """One line an event: when, what, of which task, and whether the signature is right."""

    def __init__(self, console: Console, status: int) -> None:
        self._console = console
        self._status = status
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, receipt: Receipt) -> None:
        with self._lock:
            again = receipt.id in self._seen
            self._seen.add(receipt.id or "")
            self._console.print(_line(receipt, self._status, again=again))


def _line(receipt: Receipt, status: int, *, again: bool) -> Text:
    """Nothing of a stranger's is read as markup: it is put together from plain pieces."""
    event = receipt.event
    data = event.get("data")
    subject = data.get("id") if isinstance(data, dict) else None
    verdict, style = _verdict(receipt)
    answered = 401 if receipt.verified is False else status
    line = Text(datetime.fromtimestamp(receipt.at).astimezone().strftime("%H:%M:%S "), "dim")
    line.append(f"{event.get('type') or 'not an event'} ", "bold")
    line.append(f"{subject or receipt.path} ")
    line.append(f"{receipt.id or 'without webhook-id'} ", "dim")
    line.append(verdict, style)
    line.append(f" -> {answered}", "dim" if 200 <= answered < 300 else "yellow")
    if again:
        line.append(" (again)", "yellow")
    return line


def _verdict(receipt: Receipt) -> tuple[str, str]:
    if receipt.verified is None:
        return "not checked", "yellow"
    return ("verified", "green") if receipt.verified else (f"NOT VERIFIED: {receipt.problem}", "bold red")
