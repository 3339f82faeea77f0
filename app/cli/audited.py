"""Administrative acts on the command line stand in the audit log like those over HTTP."""

from __future__ import annotations

import getpass
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.platform.database import Database


def audited(database: Database, action: str, subject: str) -> None:
    """Write down what was done to what, and by which user of this machine."""
    from app.access.audit_log import write_audit
    from app.access.domain.audit import AuditEntry

    entry = AuditEntry(at=time.time(), action=action, user=_user(), address="cli", task_id=subject)
    database.write(lambda conn: write_audit(conn, [entry]))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        return "unknown"
