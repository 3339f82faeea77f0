"""One GET, measured: no redirects, no repeat, a megabyte at most."""

from __future__ import annotations

import time

import orjson
import urllib3

from app.upstreams.domain.reply import FetchedPage

_MOST_BYTES = 1024 * 1024
_USER_AGENT = "Penstock-doctor/1"


def get(url: str, *, seconds: float = 10.0) -> FetchedPage:
    """The answer, its headers in lower case, its body if that is JSON. Never raises for what the other side does.

    What the environment says of proxies is not heard.
    """
    asked_at, began = time.time(), time.monotonic()
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=seconds)) as pool:
        try:
            headers = {"User-Agent": _USER_AGENT, "Accept": "application/json"}
            answer = pool.request("GET", url, headers=headers, redirect=False, preload_content=False)
            body = answer.read(_MOST_BYTES)
            answer.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return FetchedPage(asked_at=asked_at, seconds=time.monotonic() - began, error=_why(error))
    found = {name.lower(): value for name, value in answer.headers.items()}
    return FetchedPage(answer.status, found, _json(body), time.monotonic() - began, asked_at)


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _why(error: Exception) -> str:
    """In words that hold nothing of the request."""
    if isinstance(error, urllib3.exceptions.SSLError):
        return "TLS failed"
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # a kind of timeout to urllib3
        return "connection refused"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return type(error).__name__
