"""One GET, measured: no redirects, no repeat, a megabyte at most."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from typing import Any

import orjson
import urllib3
from urllib3.util import make_headers

from app.domain.doctor_provider import Page

_MOST_BYTES = 1024 * 1024
_USER_AGENT = "Penstock-doctor/1"


def get(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    proxy: str = "",
    proxy_auth: str = "",
    seconds: float = 10.0,
) -> Page:
    """The answer, its headers in lower case, its body if that is JSON. Never raises for what the other side does.

    `proxy` is an http address, `proxy_auth` its "user:password"; what the environment says of proxies is not heard.
    """
    asked_at, began = time.time(), time.monotonic()
    with _pool(tls, proxy, proxy_auth, seconds) as pool:
        try:
            answer = pool.request(
                "GET",
                url,
                headers={"User-Agent": _USER_AGENT, "Accept": "application/json", **(headers or {})},
                redirect=False,
                preload_content=False,
            )
            body = answer.read(_MOST_BYTES)
            answer.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return Page(asked_at=asked_at, seconds=time.monotonic() - began, error=_why(error))
    found = {name.lower(): value for name, value in answer.headers.items()}
    return Page(answer.status, found, _json(body), time.monotonic() - began, asked_at)


def _pool(tls: ssl.SSLContext | None, proxy: str, proxy_auth: str, seconds: float) -> urllib3.PoolManager:
    how: dict[str, Any] = {"retries": False, "timeout": urllib3.Timeout(total=seconds)}
    if tls is not None:
        how["ssl_context"] = tls
    if not proxy:
        return urllib3.PoolManager(**how)
    auth = make_headers(proxy_basic_auth=proxy_auth) if proxy_auth else None
    return urllib3.ProxyManager(proxy, proxy_headers=auth, **how)


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _why(error: Exception) -> str:
    """In words that hold nothing of the request."""
    if isinstance(error, urllib3.exceptions.SSLError):
        return "TLS failed"
    if isinstance(error, urllib3.exceptions.ProxyError):
        return "the proxy does not answer, or lets nobody through"
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # a kind of timeout to urllib3
        return "connection refused"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return type(error).__name__
