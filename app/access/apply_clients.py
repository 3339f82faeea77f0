"""Clients as a file wants them: what would change, then the changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.access import manage_clients
from app.access.domain.client_limits import as_mapping
from app.access.manage_clients import CreatedClient, check_limits, read_limits
from app.access.store.clients import ClientRow
from app.platform.database import Database
from app.platform.domain.errors import Invalid
from app.platform.ports import Clock

_KINDS: Mapping[str, tuple[Any, str]] = {
    "weight": (int | float, "a number"),
    "granted_priority": (str, 'a text: "high", "normal" or "low"'),
    "team": (str, "a text"),
    "administers": (str, "a text"),
    "limits": (dict, "a table: [client.limits]"),
}
_FIELDS = ("weight", "granted_priority", "team", "administers", "limits")


@dataclass(frozen=True, slots=True)
class Change:
    """One client: fields by name, as they are and as they shall be."""

    id: str
    is_new: bool
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def lines(self) -> Iterator[str]:
        """What would change, for people."""
        yield f"{'+' if self.is_new else '~'} {self.id}"
        for name, value in self.after.items():
            yield f"    {name}: {self.before.get(name)} -> {value}"


def read_wishes(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The [[client]] tables of a file, checked. Raises Invalid that names client and field."""
    unknown = set(data) - {"client"}
    tables = data.get("client", [])
    if unknown or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise Invalid(f"{', '.join(sorted(unknown)) or 'client'}: a file holds [[client]] tables alone")
    seen: set[str] = set()
    for table in tables:
        name = table.get("id")
        odd = set(table) - {"id", *_FIELDS}
        if not isinstance(name, str) or name in seen:
            raise Invalid(f"client {name!r}: needs an id of its own")
        if odd:
            raise Invalid(f"client {name!r}: {', '.join(sorted(odd))}: there are {', '.join(_FIELDS)}")
        _check_kinds(table, name)
        check_limits(table.get("limits", {}))
        seen.add(name)
    return tables


def _check_kinds(table: Mapping[str, Any], name: str) -> None:
    for field, (kind, words) in _KINDS.items():
        value = table.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise Invalid(f"client {name!r}: {field}: must be {words}", param=field, code="invalid_type")


def plan(database: Database, wishes: Sequence[Mapping[str, Any]]) -> list[Change]:
    """What would change; clients that are as wanted are left out."""
    present = {row.id: row for row in manage_clients.list_clients(database)}
    changes = [_change(wish, present.get(wish["id"])) for wish in wishes]
    return [change for change in changes if change.is_new or change.after]


def carry_out(database: Database, clock: Clock, change: Change) -> CreatedClient | None:
    """Do it; gives back a new client with its secrets. Raises Invalid, Conflict, DatabaseUnreachable."""
    values = dict(change.after)
    if "limits" in values:
        values["limits"] = check_limits(values["limits"])
    if change.is_new:
        return manage_clients.add_client(database, clock, change.id, **values)
    manage_clients.change_client(database, change.id, values)
    return None


def _change(wish: Mapping[str, Any], row: ClientRow | None) -> Change:
    before = {} if row is None else _as_it_is(row)
    wanted = {name: wish[name] for name in _FIELDS if name in wish}
    if "limits" in wanted:
        wanted["limits"] = as_mapping(check_limits(wanted["limits"]))
    after = {name: value for name, value in wanted.items() if name not in before or before[name] != value}
    return Change(str(wish["id"]), row is None, before, after)


def _as_it_is(row: ClientRow) -> dict[str, Any]:
    limits = as_mapping(read_limits(row.settings))
    return {**{name: getattr(row, name) for name in _FIELDS if name != "limits"}, "limits": limits}
