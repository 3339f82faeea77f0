"""Tables of the cache and of what was used. Money in pico-units, bodies JSON text, instants Unix seconds.

Usage is a ledger: each transaction that ends tasks adds entries and touches none that is there, so that no row is hot
and entries stand or fall with the ends they tell of. `fold_usage` gathers them by day.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Table, Text, text

from app.billing.domain.usage import FIGURES
from app.platform.encryption import Sealed
from app.tasks.store.tables import Serial, metadata

HEADING = ("day", "client_id", "model", "key", "account", "upstream_model", "currency")

cache_entry = Table(
    "cache_entry",
    metadata,
    Column("key", Text, primary_key=True),  # <scope>:<hash>
    Column("entry", Sealed, nullable=False),  # JSON
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),  # within some minutes
    Index(None, "expires_at"),
    Index(None, "used_at"),
)


def _figures() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False, server_default=text("0")) for name in FIGURES]


usage_entry = Table(
    "usage_entry",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    *(Column(name, Text, nullable=False) for name in HEADING),
    *_figures(),
)

usage_day = Table(
    "usage_day",
    metadata,
    *(Column(name, Text, primary_key=True) for name in HEADING),
    *_figures(),
    Index(None, "client_id", "day"),
)
