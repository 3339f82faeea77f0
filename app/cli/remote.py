"""The service over HTTP, as the commands use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
import orjson
import urllib3

from app.cli.failure import CommandFailure, Exit
from app.cli.profile import data_folder, load

P = ParamSpec("P")
R = TypeVar("R")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
LINES_SECONDS = 600.0  # more, for a large batch to be stored


@dataclass(frozen=True, slots=True)
class Remote:
    """One service and the key to it."""

    url: str
    api_key: str = field(repr=False)
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False), repr=False)

    def get(self, path: str, **query: str | float | None) -> Any:
        """The JSON body of a GET; query values that are None are left out. Raises Failure."""
        fields = {name: str(value) for name, value in query.items() if value is not None}
        return self._call("GET", path, fields=fields or None, wait=float(fields.get("wait", 0)))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON body of a POST. Raises Failure."""
        return self._call("POST", path, body=orjson.dumps(body or {}), wait=0.0)

    def send_lines(self, path: str, body: Iterable[bytes], key: str | None = None) -> Any:
        """The JSON body of a POST of JSON lines, sent as they come. `key`: its Idempotency-Key. Raises Failure."""
        headers = {"Content-Type": "application/x-ndjson", **({"Idempotency-Key": key} if key else {})}
        return self._call("POST", path, body=body, headers=headers, wait=LINES_SECONDS)

    def stream(self, path: str) -> Iterator[bytes]:
        """The body of a GET, piece by piece. Raises Failure, also when it breaks off."""
        answer = self._request("GET", path, {}, ANSWER_SECONDS, preload_content=False)
        try:
            if answer.status >= 400:
                raise _refusal(answer.status, answer.read())
            yield from iter(lambda: answer.read1(65536), b"")
        except urllib3.exceptions.HTTPError as error:
            raise self._no_answer(error) from error
        finally:
            answer.close()

    def _call(
        self, method: str, path: str, *, wait: float, headers: Mapping[str, str] | None = None, **what: Any
    ) -> Any:
        answer = self._request(method, path, headers or {}, ANSWER_SECONDS + wait, **what)
        if answer.status >= 400:
            raise _refusal(answer.status, answer.data)
        return orjson.loads(answer.data)

    def _request(
        self, method: str, path: str, more: Mapping[str, str], seconds: float, **what: Any
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json", **more}
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=seconds)
        try:
            return self.pool.request(method, self.url + path, headers=headers, timeout=timeout, **what)
        except urllib3.exceptions.HTTPError as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: urllib3.exceptions.HTTPError) -> CommandFailure:
        hint = "Start it by `penstock up`, or name another by --url or PENSTOCK_URL."
        return CommandFailure(f"no answer from {self.url} ({_kind(error)})", hint, Exit.UNREACHABLE)


def _refusal(status: int, body: bytes) -> CommandFailure:
    """The envelope's message; 5xx counts as out of reach."""
    try:
        error = orjson.loads(body)["error"]
        named = f" ({error['param']})" if error.get("param") else ""
        message = f"{error['message']}{named}"
    except (ValueError, KeyError, TypeError):
        message = f"the service answered {status}"
    hint = "Give a key by PENSTOCK_API_KEY or --key." if status == 401 else None
    return CommandFailure(message, hint, Exit.UNREACHABLE if status >= 500 else Exit.FAILED)


def _kind(error: urllib3.exceptions.HTTPError) -> str:
    return "refused" if isinstance(error, urllib3.exceptions.NewConnectionError) else type(error).__name__


def find(url: str | None, key: str | None, environ: Mapping[str, str], data: Path | None = None) -> Remote:
    """Address and key: as given, from the environment, from the data folder's profile. Raises Failure."""
    profile = load(data_folder(environ, data))
    address = url or environ.get("PENSTOCK_URL") or profile.url
    secret = key or environ.get("PENSTOCK_API_KEY") or profile.api_key or environ.get("PENSTOCK_ADMIN_KEY")
    if not address:
        hint = "Start it by `penstock up` in this folder, or name it by --url or PENSTOCK_URL."
        raise CommandFailure("no service is known here", hint, Exit.CONFIGURATION)
    if not secret:
        raise CommandFailure(
            "no API key is known here", "Give one by --key or PENSTOCK_API_KEY.", Exit.CONFIGURATION
        )
    return Remote(address.rstrip("/"), secret)


def with_remote(command: Callable[Concatenate[Remote, P], R]) -> Callable[..., R]:
    """Give a command --url, --key and --data, and the Remote that they name as its first argument."""

    @click.option("--url", help="Address of the service [default: PENSTOCK_URL, the profile].")
    @click.option("--key", help="API key [default: PENSTOCK_API_KEY, the profile].")
    @click.option(
        "--data", type=click.Path(path_type=Path), help="Folder with the profile [default: .penstock]."
    )
    @wraps(command)
    def found(url: str | None, key: str | None, data: Path | None, *args: P.args, **options: P.kwargs) -> R:
        return command(find(url, key, os.environ, data), *args, **options)

    return found
