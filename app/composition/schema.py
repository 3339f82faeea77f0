"""All tables, whichever room they belong to: importing this module makes `metadata` whole."""

from __future__ import annotations

from app.access.store import access_tables
from app.billing.store import cost_tables
from app.reporting.store import alert_tables
from app.tasks.store import openai_tables, tables

TABLES = (tables, openai_tables, access_tables, cost_tables, alert_tables)
metadata = tables.metadata
