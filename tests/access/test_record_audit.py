"""The audit log goes on after an entry, or a moment, that nobody expected."""

from __future__ import annotations

from typing import Any

import pytest

from app.access import audit_log
from app.access.audit_log import RecordAudit, write_audit
from app.access.domain.audit import ChainEntry
from app.platform.database import Database
from tests.stack import wait_until


def test_an_entry_that_cannot_be_written_is_left_out_and_the_thread_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def write(conn: Any, entries: list[ChainEntry]) -> None:
        if any(entry.action == "poison" for entry in entries):
            raise ValueError("poison")
        write_audit(conn, entries)
        written.extend(entry.action for entry in entries)

    monkeypatch.setattr(audit_log, "write_audit", write)
    audit = RecordAudit(database)
    for action in ("first", "poison", "second"):
        audit.add(ChainEntry(1.0, action))
    wait_until(lambda: "second" in written, within=30)
    audit.add(ChainEntry(2.0, "third"))
    wait_until(lambda: "third" in written, within=30)
    audit.close()
    assert written == ["first", "second", "third"]
