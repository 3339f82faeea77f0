"""What a caller reads of a connection that failed: words, never the name of an exception."""

import http.client
import socket
import zlib

import pytest
from urllib3.exceptions import DecodeError, ProtocolError

from app.upstreams.upstream_call import _detail


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (caused(ProtocolError("x"), http.client.RemoteDisconnected("x")), "it closed the connection."),
        (caused(ProtocolError("x"), http.client.IncompleteRead(b"", 5)), "it ended before the length"),
        (caused(ProtocolError("x"), http.client.BadStatusLine("nonsense")), "not well-formed HTTP"),
        (http.client.LineTooLong("header line"), "not well-formed HTTP"),
        (caused(DecodeError("x"), zlib.error("incorrect header")), "not well-formed HTTP"),
        (ValueError("invalid literal for int()"), "not well-formed HTTP"),
        (
            caused(ProtocolError("x"), ConnectionResetError(104, "Connection reset by peer")),
            "Connection reset",
        ),
        (TimeoutError("x"), "it took too long"),
        (socket.gaierror(-2, "Name or service not known"), "its name could not be resolved"),
    ],
)
def test_a_failed_connection_is_told_in_words(error: Exception, words: str) -> None:
    said = _detail(error)
    assert words in said
    assert type(error).__name__ not in said
    assert "Error" not in said
