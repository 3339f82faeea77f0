"""Many rows in one statement: ONE bound JSON parameter, unpacked by the database into a table to join with.

    wanted = recordset(dialect, id=Text())
    conn.execute(update(task).where(task.c.id == wanted.c.id)..., {ROWS: encode([{"id": "task_1"}])})

A statement keeps its text whatever the number of rows, so both databases parse and plan it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import FromClause, Text, bindparam, cast, column, func, literal_column, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

ROWS = "rows"
_NAME = "wanted"


def recordset(dialect: str, parameter: str = ROWS, /, **columns: TypeEngine[Any]) -> FromClause:
    """Make a table `wanted` of the given columns; the statement is executed with `{ROWS: encode(...)}`.

    `parameter`: another name than ROWS, where one statement has several of them.
    """
    rows = bindparam(parameter, type_=Text())
    if dialect == "postgresql":
        typed = [column(key, kind) for key, kind in columns.items()]
        unpacked = func.jsonb_to_recordset(cast(rows, JSONB)).table_valued(*typed)
        return unpacked.render_derived(name=_NAME, with_types=True)
    each = func.json_each(rows).table_valued("value", name="each")
    fields = [
        literal_column(f"json_extract(each.value, '$.{key}')", kind).label(key)
        for key, kind in columns.items()
    ]
    return select(*fields).select_from(each).subquery(_NAME)


def encode(rows: Iterable[Mapping[str, Any]]) -> str:
    """Encode rows for a recordset's parameter."""
    listed = list(rows)
    try:
        encoded = orjson.dumps(listed)
    except TypeError:  # half of a surrogate pair, from a careless upstream
        encoded = orjson.dumps([_cleaned(row) for row in listed])
    if b"\\u0000" in encoded:
        encoded = orjson.dumps([_cleaned(row) for row in listed])
    return encoded.decode()


def clean(text: str) -> str:
    """Replace what PostgreSQL cannot store in a text: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _cleaned(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: clean(value) if isinstance(value, str) else value for key, value in row.items()}
