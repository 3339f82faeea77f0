"""The audit log's chain: each digest covers the one before, so that removed or changed entries are detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FIRST = "0" * 64  # the digest before the first entry


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """One call or administrative act. Never holds a prompt, a result or a secret."""

    at: float  # Unix seconds, to the millisecond
    action: str  # "POST /v1/tasks", or "client.add"
    client_id: str = ""
    team: str = ""
    user: str = ""
    key_id: str = ""
    address: str = ""
    model: str = ""
    task_id: str = ""  # the task, batch, client, key or policy concerned
    request_id: str = ""
    status: int = 0  # HTTP status; 0: not over HTTP
    duration_ms: int = 0
    details: str = ""  # JSON: parameters without prompts, or why it was refused


@dataclass(frozen=True, slots=True)
class Linked:
    """An entry at its place in the chain, with the digest stored for it."""

    number: int  # from 1, without gaps
    digest: str
    entry: ChainEntry


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The chain's last link, and where it starts: retention has removed everything before `first`."""

    number: int = 0
    digest: str = FIRST
    first: int = 1
    before: str = FIRST  # the digest of the last removed entry


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """Where the chain is broken."""

    number: int
    what: str


def digest(previous: str, number: int, entry: ChainEntry) -> str:
    """SHA-256 over the previous digest, the number and every field, in hexadecimal."""
    text = json.dumps([previous, number, *as_row(entry).values()], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def link(head: ChainHead, entries: Iterable[ChainEntry]) -> list[Linked]:
    """Append entries to the chain, in order."""
    linked, number, previous = [], head.number, head.digest
    for entry in entries:
        number += 1
        previous = digest(previous, number, entry)
        linked.append(Linked(number, previous, entry))
    return linked


class ChainCheck:
    """Checks a chain from its start: `add` the links in order, then call `end`."""

    def __init__(self, head: ChainHead) -> None:
        self._head = head
        self._next = head.first
        self._previous = head.before

    @property
    def seen(self) -> int:
        """How many links verified."""
        return self._next - self._head.first

    def add(self, one: Linked) -> ChainBreak | None:
        """Check the next link; returns what is wrong with it, if anything."""
        if one.number != self._next:
            return ChainBreak(self._next, f"entries {self._next} to {one.number - 1} are missing")
        if digest(self._previous, one.number, one.entry) != one.digest:
            return ChainBreak(one.number, "the entry was changed, or the one before it was replaced")
        self._next, self._previous = one.number + 1, one.digest
        return None

    def end(self) -> ChainBreak | None:
        """Check the end of the chain; returns what is wrong with it, if anything."""
        if self._next != self._head.number + 1:
            return ChainBreak(self._next, f"entries {self._next} to {self._head.number} are missing")
        if self._previous != self._head.digest:
            return ChainBreak(self._head.number, "the last entry does not match the recorded head")
        return None


def as_row(entry: ChainEntry) -> Mapping[str, Any]:
    """Its fields; the instant in whole milliseconds, which every database returns unchanged."""
    return {
        "at_ms": round(entry.at * 1000),
        **{name: getattr(entry, name) for name in ChainEntry.__dataclass_fields__ if name != "at"},
    }


def from_row(row: Mapping[str, Any]) -> ChainEntry:
    """The entry of a row that `as_row` made."""
    rest = {name: row[name] for name in ChainEntry.__dataclass_fields__ if name != "at"}
    return ChainEntry(at=row["at_ms"] / 1000, **rest)
