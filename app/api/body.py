"""Reading what was sent: never more than allowed, and a broken transmission is the sender's matter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from flask import Request
from flask.globals import request_ctx
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from app.api.gzip_members import BadGzip, Members
from app.api.http_worker import SlowClient
from app.api.peer import watch_peer
from app.platform.domain.errors import Invalid

_PIECE = 64 * 1024  # bytes
_LOOK_EVERY = 16  # pieces unpacked between two looks whether the client is there
TOO_LARGE = 413
ONE_TASK = "send less, or have [api] max_task_body raised"  # what to do about a task that is too large
_HEARD_OUT = (
    64 * 1024 * 1024
)  # bytes of a body that is too large, read and dropped so that the refusal is heard


def read_body(most: int, mend: str = "send less") -> bytes:
    """The whole body. Raises Invalid (413) above `most` bytes, (400) when it breaks off,
    (408) when it comes too slowly. `mend` says what to do about a body that is too large.
    """
    try:
        return b"".join(pieces(most))
    except Invalid as error:
        if error.status != TOO_LARGE:
            raise
        raise Invalid(f"{error.message}: {mend}", code=error.code, status=TOO_LARGE) from None


def pieces(most: int) -> Iterator[bytes]:
    """The body piece by piece, none kept, unpacked if it came packed by gzip. Raises as read_body, (415)."""
    encoding = request_ctx.request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if encoding in ("", "identity"):
        return _as_sent(most)
    if encoding in ("gzip", "x-gzip"):
        return _unpacked(_as_sent(most), most)
    raise Invalid(
        "Content-Encoding: gzip, or none",
        param="Content-Encoding",
        code="unsupported_media_type",
        status=415,
    )


def is_packed() -> bool:
    """Whether the body is larger than its length says."""
    return bool(request_ctx.request.environ.get("HTTP_CONTENT_ENCODING"))


def _unpacked(packed: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Never more than a piece at a time, and never beyond `most` bytes: a bomb ends there.

    It ends also when nobody is there to hear what came of it: all of a bomb has come long before it is unpacked.
    """
    members, read, hung_up = Members(), 0, watch_peer(request_ctx.request.environ)
    for count, out in enumerate(_members(packed, members), 1):
        read += len(out)
        if read > most:
            raise _too_large(most)
        if count % _LOOK_EVERY == 0 and hung_up():
            raise _broken_off()
        yield out
    if not members.whole:
        raise _broken_off()


def _members(packed: Iterable[bytes], members: Members) -> Iterator[bytes]:
    try:
        for piece in packed:
            yield from members.unpack(piece, _PIECE)
    except BadGzip as error:
        raise Invalid(f"the body is not well-formed gzip: {error}", code="malformed_body") from None


def _as_sent(most: int) -> Iterator[bytes]:
    asked = request_ctx.request
    asked.max_content_length = most
    length = asked.content_length
    if (length or 0) > most:
        raise _too_large(most)
    read = 0
    while (length is None or read < length) and (piece := _next_piece(asked, most, length, read)):
        read += len(piece)
        if read > most:
            raise _too_large(most)
        yield piece
    if length is not None and read < length:
        raise _broken_off()


def _next_piece(asked: Request, most: int, length: int | None, read: int) -> bytes:
    """Of a body whose length was told no more is asked of the server than that: werkzeug need not watch over it."""
    try:
        if length is None:
            return asked.stream.read(_PIECE)
        piece: bytes = asked.environ["wsgi.input"].read(min(_PIECE, length - read))
        return piece
    except RequestEntityTooLarge:
        raise _too_large(most) from None
    except SlowClient:
        raise Invalid("the body came too slowly", code="request_timeout", status=408) from None
    except (ClientDisconnected, OSError) as error:
        raise _broken_off() from error
    except Exception as error:
        if type(error).__module__.startswith("gunicorn.http"):  # a malformed chunk, say
            raise Invalid("the body is not well-formed HTTP", code="malformed_body") from error
        raise


def _too_large(most: int) -> Invalid:
    """The refusal, after some of the rest was read: who still sends would not hear it."""
    environ = request_ctx.request.environ
    if environ.get("wsgi.input_terminated"):
        with suppress(Exception):
            left = _HEARD_OUT
            while left > 0 and (piece := environ["wsgi.input"].read(_PIECE)):
                left -= len(piece)
    return Invalid(f"the body is larger than {most} bytes", code="request_too_large", status=TOO_LARGE)


def _broken_off() -> Invalid:
    return Invalid("the body broke off before its end", code="incomplete_body")
