"""Dashboard sessions: a signed cookie that holds a ticket, and a CSRF token in every form."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from itsdangerous import URLSafeTimedSerializer

from app.access.authenticate import KeepSession, Ticket
from app.access.domain.caller import Caller, allows
from app.platform.domain.errors import Forbidden, Unauthenticated

_FILE = "dashboard.key"


def signing_key(admin_key: str | None, environ: Mapping[str, str] = os.environ) -> bytes:
    """Derive it from the administrator's key; without one, make it once and keep it in the data folder (0600).

    scrypt, since an administrator's key is what somebody chose: a stolen cookie is no quick test of guesses.
    Where no file can be kept, the key lives as long as this process.
    """
    if admin_key:
        return hashlib.scrypt(admin_key.encode(), salt=b"penstock dashboard", n=2**14, r=8, p=1, dklen=32)
    folder = Path(environ.get("PENSTOCK_DATA") or ".penstock").expanduser()
    try:
        return _kept(folder / _FILE)
    except OSError:
        return secrets.token_bytes(32)


def _kept(path: Path) -> bytes:
    """What the file holds; of several processes that start together one writes it."""
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


SESSION_SECONDS = 12 * 3600
COOKIE = "penstock_session"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who is signed in."""

    caller: Caller
    ticket: Ticket

    @property
    def sees(self) -> str | None:
        """Whose things are shown; None: everybody's."""
        return None if self.administers else self.caller.client_id

    @property
    def administers(self) -> bool:
        """Whether everything is shown."""
        return self.caller.is_admin and allows(self.caller.scopes, "admin:read")

    @property
    def may_retry(self) -> bool:
        """Whether tasks may be submitted again."""
        return allows(self.caller.scopes, "tasks:write")


class SignedCookies(SecureCookieSessionInterface):
    """Flask's own sessions, with a key that is made when a cookie is first met, and Secure wherever TLS is spoken."""

    def __init__(self, admin_key: str | None) -> None:
        self._admin_key = admin_key
        self._serializer: URLSafeTimedSerializer | None = None

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        """Made once."""
        if self._serializer is None:
            app.secret_key = signing_key(self._admin_key)
            self._serializer = super().get_signing_serializer(app)
        return self._serializer

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Without a cookie there is nothing to read: calls of the API bring none."""
        return (
            super().open_session(app, request) if "HTTP_COOKIE" in request.environ else self.session_class()
        )

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """What is empty and was not looked at leaves no trace in the answer."""
        if session or session.accessed or session.modified:
            super().save_session(app, session, response)

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002
        """A forged header can only make a cookie stricter."""
        return over_tls()


def install_sessions(app: Flask, admin_key: str | None) -> None:
    """Sessions are read and written only by pages that ask for them."""
    app.session_interface = SignedCookies(admin_key)
    app.config.update(
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",  # Strict would show a stranger's page to whoever follows a link from Flower
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=SESSION_SECONDS,
    )


def over_tls() -> bool:
    """Whether the browser speaks TLS, to us or to the proxy before us."""
    return request.is_secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


Admit = Callable[[Caller, str], None]
"""Decides by policy whether a caller may do what needs a scope, and notes who it is. Raises Forbidden."""


class SessionAuth:
    """Lets in and out."""

    def __init__(self, keep: KeepSession, admit: Admit) -> None:
        self._keep = keep
        self._admit = admit

    def let_in(self, shown: str) -> None:
        """Begin a new session for an API key. Raises Unauthenticated, DatabaseUnreachable."""
        ticket = self._keep.open(shown)
        self._admit(self._keep.caller(ticket), "tasks:read")
        session.clear()
        session.permanent = True
        session["ticket"] = [ticket.key_id, ticket.mark]
        form_token()

    def let_out(self) -> None:
        """End it."""
        session.clear()

    def viewer(self, needs: str = "tasks:read") -> Viewer:
        """Who looks. Raises Unauthenticated, Forbidden (a key without this scope), DatabaseUnreachable."""
        held = session.get("ticket")
        if not held:
            raise Unauthenticated("sign in first", code="no_session")
        viewer = self.viewer_of(Ticket(*held), needs)
        self._admit(viewer.caller, needs)
        return viewer

    def viewer_of(self, ticket: Ticket, needs: str = "tasks:read") -> Viewer:
        """The same, of a ticket that was read before."""
        caller = self._keep.caller(ticket)
        if not allows(caller.scopes, needs):
            raise Forbidden(f"this API key lacks the scope {needs}", code="missing_scope")
        return Viewer(caller, ticket)


def form_token() -> str:
    """What forms of this session bring back."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(24)
    return str(session["csrf"])


def check_form() -> None:
    """Refuse a form that another site sent, or that is not of this session. Raises Forbidden."""
    request.max_content_length = 64 * 1024
    sent, known = request.form.get("csrf", ""), str(session.get("csrf", ""))
    if not known or not compare_digest(sent.encode(), known.encode()) or _from_elsewhere(request.headers):
        raise Forbidden("this form is out of date; load the page again", code="stale_form")


def _from_elsewhere(headers: Any) -> bool:
    if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc not in (
        request.host,
        headers.get("X-Forwarded-Host"),
    )
