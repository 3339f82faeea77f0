"""All tables, whichever room they belong to: importing this module makes `metadata` whole."""

from __future__ import annotations

from app.access.store import access_tables
from app.billing.store import usage
from app.caching.store import database_answers
from app.reporting.store import alerts
from app.tasks.store import tables

TABLES = (tables, access_tables, usage, database_answers, alerts)
metadata = tables.metadata
