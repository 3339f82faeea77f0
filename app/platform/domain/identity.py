"""What an id looks like, so that nothing else is ever asked of the database."""

from __future__ import annotations

import re

_ID = re.compile(r"([a-z]{1,10})_[0-9a-z]{1,64}")


def is_id(kind: str, text: str) -> bool:
    """Whether `text` may be the id of a thing of that kind, such as `task`."""
    match = _ID.fullmatch(text)
    return match is not None and match[1] == kind
