"""The audit log's chain: each digest covers the one before, so that removed or changed entries are detected."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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


RETENTION = "audit.retention"  # the action of the entry by which retention says where the chain begins now


@dataclass(frozen=True, slots=True)
class ChainCopy:
    """What an earlier verification printed, kept outside the database: `FIRST..LAST:DIGEST`."""

    first: int
    last: int
    digest: str

    def __str__(self) -> str:
        return f"{self.first}..{self.last}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> ChainCopy:
        """Read a printed one. Raises ValueError."""
        found = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18}):([0-9a-f]{64})", text.strip())
        if found is None:
            raise ValueError("expected FIRST..LAST:HASH as `penstock audit verify` printed it")
        return cls(int(found[1]), int(found[2]), found[3])


class RefusalFold:
    """Folds refusals without a known caller, which cost a stranger nothing and would fill the log.

    The first of an address and minute stands alone; the others become one entry with their count.
    """

    MOST = 10_000  # addresses at a time; those beyond are counted together

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}

    def take(self, entry: ChainEntry) -> ChainEntry | None:
        """The entry to write, if any."""
        if entry.client_id or entry.status != UNAUTHORIZED:
            return entry
        key = (entry.address, int(entry.at // 60))
        if key not in self._counts and len(self._counts) >= self.MOST:
            key = ("", key[1])
        before = self._counts.get(key)
        self._counts[key] = 0 if before is None else before + 1
        return replace(entry, request_id="") if before is None else None  # the id is a stranger's own text

    def due(self, now: float) -> list[ChainEntry]:
        """What was folded in minutes that are over."""
        over = [key for key in self._counts if (key[1] + 1) * 60 <= now]
        found = [(key, count) for key in over if (count := self._counts.pop(key))]
        return [
            ChainEntry(
                at=(minute + 1) * 60 - 0.001,
                action="refused",
                address=address,
                status=UNAUTHORIZED,
                details=json.dumps({"more_in_this_minute": count}),
            )
            for (address, minute), count in found
        ]


UNAUTHORIZED = 401


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

    def __init__(self, head: ChainHead, copy: ChainCopy | None = None) -> None:
        self._head = head
        self._copy = copy
        self._next = head.first
        self._previous = head.before
        self._start: tuple[int, str] | None = None  # where retention says that the chain begins

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
        if self._copy is not None and one.number == self._copy.last and one.digest != self._copy.digest:
            return ChainBreak(one.number, "the chain up to here is not the one that the copy was made of")
        self._next, self._previous = one.number + 1, one.digest
        if one.entry.action == RETENTION:
            said = json.loads(one.entry.details)
            self._start = (said["first"], said["before"])
        return None

    def end(self) -> ChainBreak | None:
        """Check the end of the chain; returns what is wrong with it, if anything."""
        if self._next != self._head.number + 1:
            return ChainBreak(self._next, f"entries {self._next} to {self._head.number} are missing")
        if self._previous != self._head.digest:
            return ChainBreak(self._head.number, "the last entry does not match the recorded head")
        if self._head.first > 1 and self._start != (self._head.first, self._head.before):
            return ChainBreak(1, f"entries 1 to {self._head.first - 1} are gone, and not by retention")
        if self._copy is None:
            return None
        if self._copy.last > self._head.number:
            return ChainBreak(
                self._head.number + 1, f"entries to {self._copy.last} are in the copy, and gone here"
            )
        if self._copy.last == self._head.first - 1 and self._copy.digest != self._head.before:
            return ChainBreak(
                self._head.first, "the chain before it is not the one that the copy was made of"
            )
        return None  # of a copy from before the beginning, retention has taken everything


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
