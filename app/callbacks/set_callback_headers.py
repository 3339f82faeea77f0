"""Put headers of a client's own on its callbacks, such as a token that its gateway asks for."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from app.callbacks.domain.callback import check_headers
from app.callbacks.store.callback_settings import set_headers
from app.platform.database import Database
from app.platform.domain.errors import Invalid, NotFound


def set_callback_headers(database: Database, client_id: str, headers: Mapping[str, str]) -> None:
    """Replace a client's callback headers; none takes them away.

    Raises Invalid for a header that may not be set, NotFound for an unknown client, DatabaseUnreachable.
    """
    try:
        check_headers(headers)
    except ValueError as error:
        raise Invalid(str(error), param="callback_headers", code="invalid_callback_headers") from None
    text = orjson.dumps(dict(headers)).decode() if headers else None
    if not database.write(lambda conn: set_headers(conn, client_id, text)):
        raise NotFound("there is no such client", code="client_not_found")
