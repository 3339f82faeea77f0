"""Bring clients to the state that a file describes: first a plan of the changes, then the changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.access import manage_clients
from app.access.domain.caller import ClientRow, as_mapping
from app.access.manage_clients import CreatedClient, check_limits, read_limits
from app.platform.database import Database
from app.platform.domain.errors import Invalid
from app.platform.ports import Clock

_KINDS: Mapping[str, tuple[Any, str]] = {
    "weight": (int | float, "a number"),
    "granted_priority": (str, 'text: "high", "normal" or "low"'),
    "team": (str, "text"),
    "administers": (str, "text"),
    "limits": (dict, "a table: [client.limits]"),
}
_FIELDS = ("weight", "granted_priority", "team", "administers", "limits")


@dataclass(frozen=True, slots=True)
class Change:
    """One client: its fields by name, before and after."""

    id: str
    is_new: bool
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def lines(self) -> Iterator[str]:
        """The change in readable lines."""
        yield f"{'+' if self.is_new else '~'} {self.id}"
        for name, value in self.after.items():
            yield f"    {name}: {self.before.get(name)} -> {value}"


def read_clients_file(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Check the [[client]] tables of a file and return them. Raises Invalid that names client and field."""
    unknown = set(data) - {"client"}
    tables = data.get("client", [])
    if unknown or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise Invalid(f"{', '.join(sorted(unknown)) or 'client'}: the file may only hold [[client]] tables")
    seen: set[str] = set()
    for table in tables:
        name = table.get("id")
        odd = set(table) - {"id", *_FIELDS}
        if not isinstance(name, str) or name in seen:
            raise Invalid(f"client {name!r}: needs a unique id")
        if odd:
            raise Invalid(
                f"client {name!r}: unknown field {', '.join(sorted(odd))}; fields are {', '.join(_FIELDS)}"
            )
        _check_kinds(table, name)
        check_limits(table.get("limits", {}))
        seen.add(name)
    return tables


def _check_kinds(table: Mapping[str, Any], name: str) -> None:
    for field, (kind, words) in _KINDS.items():
        value = table.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise Invalid(f"client {name!r}: {field}: must be {words}", param=field, code="invalid_type")


def plan(database: Database, wanted: Sequence[Mapping[str, Any]]) -> list[Change]:
    """Return what would change; clients that already match are left out."""
    present = {row.id: row for row in manage_clients.list_clients(database)}
    changes = [_change(fields, present.get(fields["id"])) for fields in wanted]
    return [change for change in changes if change.is_new or change.after]


def apply_change(database: Database, clock: Clock, change: Change) -> CreatedClient | None:
    """Apply one change; returns a new client with its secrets. Raises Invalid, Conflict, DatabaseUnreachable."""
    values = dict(change.after)
    if "limits" in values:
        values["limits"] = check_limits(values["limits"])
    if change.is_new:
        return manage_clients.add_client(database, clock, change.id, **values)
    manage_clients.change_client(database, change.id, values)
    return None


def _change(fields: Mapping[str, Any], row: ClientRow | None) -> Change:
    before = {} if row is None else _fields_of(row)
    target = {name: fields[name] for name in _FIELDS if name in fields}
    if "limits" in target:
        target["limits"] = as_mapping(check_limits(target["limits"]))
    after = {name: value for name, value in target.items() if name not in before or before[name] != value}
    return Change(str(fields["id"]), row is None, before, after)


def _fields_of(row: ClientRow) -> dict[str, Any]:
    limits = as_mapping(read_limits(row.settings))
    return {**{name: getattr(row, name) for name in _FIELDS if name != "limits"}, "limits": limits}
