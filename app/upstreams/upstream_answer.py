"""An upstream's answer that has begun."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from urllib3.response import BaseHTTPResponse

from app.upstreams.domain.reply import TransportError, TransportErrorKind
from app.upstreams.upstream_call import TROUBLES, IncompleteCall, UpstreamCall

_CHUNK = 65536


class HttpResponse:
    """An answer that has begun: its status and headers are there, its body comes."""

    def __init__(self, call: UpstreamCall, response: BaseHTTPResponse, first_byte_at: float) -> None:
        self.sent_at = call.sent_at
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.first_byte_at = first_byte_at
        self.whole = False
        self._call = call
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives, undone of any compression. Raises IncompleteCall when it is cut off."""
        try:
            while chunk := self._response.read1(_CHUNK, decode_content=True):
                yield chunk
        except TROUBLES as error:
            raise self.failed(self._call.fault(error)) from None
        self.whole = True

    @property
    def is_stream(self) -> bool:
        """Whether it comes as server-sent events."""
        return self.status == 200 and self.headers.get("content-type", "").startswith("text/event-stream")

    def hurry(self, seconds: float) -> None:
        """Give what is left of the body so many seconds at most."""
        self._call.deadline.hurry(seconds)

    def read(self, most: int) -> bytes:
        """The whole body. Raises IncompleteCall beyond `most` bytes."""
        body = bytearray()
        for chunk in self.chunks():
            body += chunk
            if len(body) > most:
                raise self.failed(
                    TransportError(
                        TransportErrorKind.TOO_LARGE, f"The upstream's answer is larger than {most} bytes."
                    )
                )
        return bytes(body)

    def failed(self, fault: TransportError) -> IncompleteCall:
        """The error for a fault of this answer."""
        return IncompleteCall(
            replace(
                fault,
                status=self.status,
                headers=self.headers,
                first_byte_at=self.first_byte_at,
                sent_at=self.sent_at,
            )
        )
