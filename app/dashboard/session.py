"""Dashboard sessions: a signed cookie that holds a ticket, and a CSRF token in every form."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from itsdangerous import URLSafeTimedSerializer
from werkzeug.exceptions import TooManyRequests

from app.access.authenticate import SESSION_SECONDS, KeepSession, Ticket, client_address
from app.access.domain.caller import Caller, allows
from app.platform.domain.errors import Forbidden, Unauthenticated
from app.platform.domain.url_rules import Network

_FILE = "dashboard.key"


def signing_key(admin_key: str | None, environ: Mapping[str, str] = os.environ) -> bytes:
    """Derive the cookie signing key from the administrator's key, or create one in the data folder (0600).

    The same in all processes. Uses scrypt, since the administrator's key may be a chosen password that a stolen cookie
    must not help to guess. If no file can be written, the key lasts as long as this process.
    """
    if admin_key:
        return hashlib.scrypt(admin_key.encode(), salt=b"penstock dashboard", n=2**14, r=8, p=1, dklen=32)
    folder = Path(environ.get("PENSTOCK_DATA") or ".penstock").expanduser()
    try:
        return _kept(folder / _FILE)
    except OSError:
        return secrets.token_bytes(32)


def _kept(path: Path) -> bytes:
    """The content of the file; if several processes start together, one of them writes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return path.read_bytes()


COOKIE = "penstock_session"
_TICKET_PARTS = 3


@dataclass(frozen=True, slots=True)
class Viewer:
    """A signed-in user."""

    caller: Caller
    ticket: Ticket

    @property
    def sees(self) -> str | None:
        """The client whose objects are shown; None for all clients."""
        return None if self.administers else self.caller.client_id

    @property
    def administers(self) -> bool:
        """Whether all clients are shown."""
        return self.caller.is_admin and allows(self.caller.scopes, "admin:read")

    @property
    def may_retry(self) -> bool:
        """Whether the user may retry tasks."""
        return allows(self.caller.scopes, "tasks:write")


class SignedCookies(SecureCookieSessionInterface):
    """Flask's sessions, with a signing key that is created on first use, and Secure cookies over TLS."""

    def __init__(self, admin_key: str | None) -> None:
        self._admin_key = admin_key
        self._serializer: URLSafeTimedSerializer | None = None

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        """Return the serializer, created once."""
        if self._serializer is None:
            app.secret_key = signing_key(self._admin_key)
            self._serializer = super().get_signing_serializer(app)
        return self._serializer

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Skip requests without a cookie, such as API calls."""
        return (
            super().open_session(app, request) if "HTTP_COOKIE" in request.environ else self.session_class()
        )

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Leave responses without a used session unchanged."""
        if session or session.accessed or session.modified:
            super().save_session(app, session, response)

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002
        """Whether to set Secure. A forged header can only make the cookie stricter."""
        return over_tls()


def install_sessions(app: Flask, admin_key: str | None) -> None:
    """Install the sessions; only pages that use them read or write cookies."""
    app.session_interface = SignedCookies(admin_key)
    app.config.update(
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",  # Strict would show the sign-in page to users who follow a link from Flower
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=SESSION_SECONDS,
    )


def over_tls() -> bool:
    """Whether the browser uses TLS, to us or to a proxy."""
    return request.is_secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


Admit = Callable[[Caller, str], None]
"""Checks policies for a caller and a scope, and records the caller for the audit log. Raises Forbidden."""


class SignInBrake:
    """Lets an address try a few wrong keys a minute. Request threads share it; losing a count to a race is harmless."""

    MOST = 10
    _ADDRESSES = 10_000

    def __init__(self) -> None:
        self._minute = 0
        self._wrong: Counter[str] = Counter()

    def lets_pass(self, address: str, now: float) -> bool:
        """Whether this address may try a key. `now` in Unix seconds."""
        if (minute := int(now // 60)) != self._minute or len(self._wrong) > self._ADDRESSES:
            self._minute, self._wrong = minute, Counter()
        return self._wrong[address] < self.MOST

    def wrong(self, address: str) -> None:
        """Count a wrong key."""
        self._wrong[address] += 1


class SessionAuth:
    """Signs users in and out."""

    def __init__(self, keep: KeepSession, admit: Admit, trusted: Sequence[Network] = ()) -> None:
        """`trusted`: the proxies that are believed about a browser's address."""
        self._keep = keep
        self._admit = admit
        self._trusted = trusted
        self._brake = SignInBrake()

    def sign_in(self, shown: str, now: float) -> None:
        """Start a new session for an API key. Raises Unauthenticated, TooManyRequests, DatabaseUnreachable."""
        forwarded = request.headers.get("X-Forwarded-For") if self._trusted else None
        address = client_address(request.remote_addr or "", forwarded, self._trusted)
        if not self._brake.lets_pass(address, now):
            raise TooManyRequests
        try:
            ticket = self._keep.open(shown)
        except Unauthenticated:
            self._brake.wrong(address)
            raise
        self._admit(self._keep.caller(ticket), "tasks:read")
        session.clear()
        session.permanent = True
        session["ticket"] = [ticket.key_id, ticket.mark, ticket.session]
        form_token()

    def sign_out(self) -> None:
        """End the session; copies of its cookie end with it. Raises DatabaseUnreachable."""
        held = session.get("ticket")
        session.clear()
        if held:
            self._keep.end(Ticket(*held))

    def viewer(self, needs: str = "tasks:read") -> Viewer:
        """The signed-in user. Raises Unauthenticated, Forbidden (the key lacks the scope), DatabaseUnreachable."""
        held = session.get("ticket")
        if not held or len(held) != _TICKET_PARTS:  # or made by a version before
            raise Unauthenticated("sign in first", code="no_session")
        viewer = self.viewer_of(Ticket(*held), needs)
        self._admit(viewer.caller, needs)
        return viewer

    def viewer_of(self, ticket: Ticket, needs: str = "tasks:read") -> Viewer:
        """The user of a ticket that was read before."""
        caller = self._keep.caller(ticket)
        if not allows(caller.scopes, needs):
            raise Forbidden(f"this API key lacks the scope {needs}", code="missing_scope")
        return Viewer(caller, ticket)


def form_token() -> str:
    """The CSRF token of this session."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(24)
    return str(session["csrf"])


def check_form() -> None:
    """Refuse forms sent by another site or outside this session. Raises Forbidden."""
    request.max_content_length = 64 * 1024
    sent, known = request.form.get("csrf", ""), str(session.get("csrf", ""))
    if not known or not compare_digest(sent.encode(), known.encode()) or _from_elsewhere(request.headers):
        raise Forbidden("This form has expired. Reload the page.", code="stale_form")


def _from_elsewhere(headers: Any) -> bool:
    if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc not in (
        request.host,
        headers.get("X-Forwarded-Host"),
    )
