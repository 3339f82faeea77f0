"""`penstock listen`: receives callbacks, verifies their signatures and prints them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import click
import orjson
from rich.console import Console
from rich.text import Text
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook, WebhookVerificationError

from app.cli.failure import CommandFailure, Exit
from app.cli.profile import on_database, opened
from app.cli.supervisor import lifeline

MAX_BODY_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Receipt:
    """One received callback."""

    at: float  # Unix seconds
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    verified: bool | None  # None: no secret to verify with
    problem: str | None  # why it is not verified

    @property
    def id(self) -> str | None:
        """The `webhook-id`, the same for every attempt at one callback."""
        return self.headers.get("webhook-id")

    @property
    def event(self) -> dict[str, Any]:
        """The parsed body; empty if it is not a JSON object."""
        try:
            parsed = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return parsed if isinstance(parsed, dict) else {}


Heard = Callable[[Receipt], None]
Status = Callable[[Receipt], int]


class Listener:
    """Listens on its own port (`url`), in threads, for the length of the `with` block.

    Answers `status` to what verifies with one of `secrets` (or to everything, when there are none), 401 to
    the rest.
    """

    def __init__(
        self,
        secrets: Sequence[str] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        status: int | Status = 200,
        heard: Heard | None = None,
    ) -> None:
        """Port 0: any free one. Raises OSError if the port is in use, ValueError for an invalid secret."""
        self._webhooks = [_webhook(secret) for secret in secrets]
        self._status = status
        self._heard = heard
        self._changed = threading.Condition()
        self._receipts: list[Receipt] = []
        self._server = _Server((host, port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.port = int(self._server.server_address[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def receipts(self) -> list[Receipt]:
        """All callbacks received so far, in order."""
        with self._changed:
            return list(self._receipts)

    def wait_for(self, enough: Callable[[list[Receipt]], bool], seconds: float = 30.0) -> bool:
        """Wait until `enough` accepts what was received. Returns False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: enough(list(self._receipts)), seconds)

    def close(self) -> None:
        """Stop listening and wait for the thread."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Record one callback; returns the status to answer with."""
        problem = self._problem(headers, body)
        verified = None if not self._webhooks else problem is None
        receipt = Receipt(time.time(), path, headers, body, verified, problem)
        with self._changed:
            self._receipts.append(receipt)
            self._changed.notify_all()
        if self._heard is not None:
            self._heard(receipt)
        if verified is False:
            return 401
        return self._status(receipt) if callable(self._status) else self._status

    def _problem(self, headers: Mapping[str, str], body: bytes) -> str | None:
        problem = None
        for webhook in self._webhooks:
            try:
                webhook.verify(body, dict(headers), json_parse=False)
            except (WebhookVerificationError, ValueError) as error:
                problem = str(error) or "not verified"
            else:
                return None
        return problem

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        listener = self

        class Handler(_Handler):
            receive = staticmethod(listener.receive)

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    block_on_close = False


class _Handler(BaseHTTPRequestHandler):
    """Handles POST requests."""

    protocol_version = "HTTP/1.1"
    server_version = "penstock-listen"
    sys_version = ""
    timeout = 30  # seconds to wait for a connection's next request
    receive: Callable[[str, Mapping[str, str], bytes], int]

    def do_POST(self) -> None:
        """Read, record and answer a callback."""
        try:
            length = int(self.headers.get("content-length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY_BYTES:
            self.close_connection = True
            self._answer(413)
            return
        body = self.rfile.read(length)
        if len(body) < length:  # the sender was cut off: nobody is left to answer
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._answer(self.receive(self.path, headers, body))

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        """Print nothing: received callbacks are in the receipts."""


def _webhook(secret: str) -> Webhook:
    try:
        return Webhook(secret)
    except (EmptyWebhookSecretError, ValueError) as error:
        raise ValueError("a callback secret is whsec_ followed by base64") from error


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
    help="Verify with this secret; repeatable, for rotation [PENSTOCK_CALLBACK_SECRET].",
)
@click.option(
    "--status",
    type=click.IntRange(200, 599),
    default=200,
    show_default=True,
    help="Status code to return for valid callbacks.",
)
@click.option(
    "--client", default="admin", show_default=True, help="Without --secret: verify with this client's."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@on_database
def command(port: int, host: str, secrets: tuple[str, ...], status: int, client: str, as_json: bool) -> None:
    """Receive callbacks, verify their signatures and print them, until stopped.

    Verifies with the secret of the client in the data folder's database, if it is there. Penstock sends callbacks to
    this machine only if callbacks.allow_networks allows it; a simulated service without a file of its own does.

    \b
    penstock listen
    penstock listen --secret whsec_...
    penstock listen --status 503          # and watch the retries
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    console = Console(highlight=False, soft_wrap=True)
    show = _print_json if as_json else _Printer(console, status)
    try:
        secrets = secrets or _stored_secrets(client)
        listener = Listener(secrets, host=host, port=port, status=status, heard=show)
    except ValueError as error:
        raise CommandFailure(str(error), code=Exit.USAGE) from error
    except OSError as error:
        raise CommandFailure(
            f"cannot listen on {host}:{port}: {error.strerror}", "Choose another with --port."
        ) from error
    with listener:
        click.echo(f"Listening at {listener.url}", err=as_json)
        if not secrets:
            click.echo("No secret known: signatures are not verified. Give --secret or --data.", err=True)
        lifeline.ready()
        stop.wait()


def _stored_secrets(client: str) -> tuple[str, ...]:
    """The client's secrets, from the database of this data folder; none where it cannot be read."""
    from app.callbacks.callback_settings import valid_secrets
    from app.platform.domain.errors import PenstockError
    from app.platform.ports import SystemClock

    try:
        with opened() as database:
            return tuple(valid_secrets(database, SystemClock(), client))
    except (PenstockError, CommandFailure):
        return ()


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
    """Prints one line per event: time, type, task and whether the signature is valid. One thread at a time."""

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
    """One line, assembled from plain text so that nothing received is read as markup."""
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
