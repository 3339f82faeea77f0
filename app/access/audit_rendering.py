"""Entries of the audit log as JSON, over HTTP and on the command line alike."""

from __future__ import annotations

from typing import Any

from app.access.domain.audit import as_row
from app.access.store.audit import Kept
from app.platform.domain.instant import to_rfc3339


def as_json(kept: Kept) -> dict[str, Any]:
    """An entry as it is exported."""
    fields = dict(as_row(kept.entry))
    del fields["at_ms"]
    return {"number": kept.number, "digest": kept.digest, "at": to_rfc3339(kept.entry.at), **fields}
