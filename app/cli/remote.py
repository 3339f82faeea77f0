"""The HTTP client that the commands use."""

from __future__ import annotations

import itertools
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
from app.platform.domain.json_text import gzipped

P = ParamSpec("P")
R = TypeVar("R")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
_PACKED_FROM = 65536  # bytes of a body
_LEVEL = 3  # of gzip: fast, and text shrinks nearly as much as at 9
_GZIP_TAKEN = {"Accept-Encoding": "gzip"}
LINES_SECONDS = 600.0  # longer: storing a large batch takes time


@dataclass(frozen=True, slots=True)
class Remote:
    """A service and an API key for it."""

    url: str
    api_key: str = field(repr=False)
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False), repr=False)

    def get(self, path: str, **query: str | float | None) -> Any:
        """The JSON body of a GET; query values that are None are left out. Raises CommandFailure."""
        fields = {name: str(value) for name, value in query.items() if value is not None}
        return self._call("GET", path, fields=fields or None, wait=float(fields.get("wait", 0)))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON body of a POST. Raises CommandFailure."""
        return self._call("POST", path, body=orjson.dumps(body or {}), wait=0.0)

    def send_lines(self, path: str, body: Iterable[bytes], key: str | None = None) -> Any:
        """POST JSON lines as they come; returns the answer. `key`: the Idempotency-Key. Raises CommandFailure."""
        coding, body = _packed_if_large(body)
        headers = {
            "Content-Type": "application/x-ndjson",
            **({"Idempotency-Key": key} if key else {}),
            **coding,
        }
        return self._call("POST", path, body=body, headers=headers, wait=LINES_SECONDS)

    def stream(self, path: str) -> Iterator[bytes]:
        """Yield the body of a GET in pieces. Raises CommandFailure, also when the connection breaks."""
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
        headers = {
            "Authorization": f"Bearer {self.api_key}",
            "Content-Type": "application/json",
            **_GZIP_TAKEN,
            **more,
        }
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=seconds)
        try:
            return self.pool.request(method, self.url + path, headers=headers, timeout=timeout, **what)
        except urllib3.exceptions.HTTPError as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: urllib3.exceptions.HTTPError) -> CommandFailure:
        hint = "Start it with `penstock up`, or give another address with --url or PENSTOCK_URL."
        return CommandFailure(f"no answer from {self.url} ({_kind(error)})", hint, Exit.UNREACHABLE)


def _packed_if_large(body: Iterable[bytes]) -> tuple[Mapping[str, str], Iterable[bytes]]:
    """The headers of a body and the body itself, with gzip if it is large."""
    pieces, begun, size = iter(body), [], 0
    for piece in pieces:
        begun.append(piece)
        size += len(piece)
        if size >= _PACKED_FROM:
            return {"Content-Encoding": "gzip"}, gzipped(itertools.chain(begun, pieces), _LEVEL)
    return {}, begun


def _refusal(status: int, body: bytes) -> CommandFailure:
    """The error envelope's message; 5xx counts as unreachable."""
    try:
        error = orjson.loads(body)["error"]
        named = f" ({error['param']})" if error.get("param") else ""
        message = f"{error['message']}{named}"
    except (ValueError, KeyError, TypeError):
        message = f"the service answered {status}"
    hint = "Give a valid key with --key or PENSTOCK_API_KEY." if status == 401 else None
    return CommandFailure(message, hint, Exit.UNREACHABLE if status >= 500 else Exit.FAILED)


def _kind(error: urllib3.exceptions.HTTPError) -> str:
    return "refused" if isinstance(error, urllib3.exceptions.NewConnectionError) else type(error).__name__


def find(url: str | None, key: str | None, environ: Mapping[str, str], data: Path | None = None) -> Remote:
    """Find address and key: given, from the environment or the data folder's profile. Raises CommandFailure."""
    profile = load(data_folder(environ, data))
    address = url or environ.get("PENSTOCK_URL") or profile.url
    secret = key or environ.get("PENSTOCK_API_KEY") or profile.api_key or environ.get("PENSTOCK_ADMIN_KEY")
    if not address:
        hint = "Start one with `penstock up` in this folder, or give its address with --url or PENSTOCK_URL."
        raise CommandFailure("no service found", hint, Exit.CONFIGURATION)
    if not secret:
        raise CommandFailure(
            "no API key found", "Give one with --key or PENSTOCK_API_KEY.", Exit.CONFIGURATION
        )
    return Remote(address.rstrip("/"), secret)


def with_remote(command: Callable[Concatenate[Remote, P], R]) -> Callable[..., R]:
    """Add --url, --key and --data to a command; pass the Remote they name as its first argument."""

    @click.option("--url", help="Address of the service [default: PENSTOCK_URL, the profile].")
    @click.option("--key", help="API key [default: PENSTOCK_API_KEY, the profile].")
    @click.option(
        "--data", type=click.Path(path_type=Path), help="Folder with the profile [default: .penstock]."
    )
    @wraps(command)
    def found(url: str | None, key: str | None, data: Path | None, *args: P.args, **options: P.kwargs) -> R:
        return command(find(url, key, os.environ, data), *args, **options)

    return found
