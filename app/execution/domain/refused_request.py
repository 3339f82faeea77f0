"""When a refusal (401, 402, 403, 404) is the request's own fault, and the task fails. Pure.

A task remembers each key that refused it, among what it avoids: `refused:<key>:<account>:<visits>:<disproved>:<when>`.
A visit is disproved when another request has succeeded with that key since the visit before.

| refused with | the request's fault once |
|---|---|
| 403 | a second account refuses it, or a second key and no other is left, or one visit is disproved |
| 403 | or the key's own test has succeeded since the visit before |
| 404 | every key that could serve it refuses it |
| 401, 402 | two visits are disproved: a dead key or an unpaid account is never the client's fault |

Until then it goes to a key that has not refused it, at once; else to one that has, after 1 s, 2 s, 4 s up to a minute.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from app.tasks.domain.attempt import Outcome, Permit

_NOTE = "refused:"
LONGEST_WAIT = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Visit:
    """What a task remembers of one key that refused it."""

    key: str
    account: str
    visits: int = 0
    disproved: int = 0
    at: float = float("inf")  # gate time of the last one's release
    tested: bool = False  # the key's own test has succeeded since the visit before


def remembered(notes: Iterable[str]) -> dict[str, Visit]:
    """The visits among what a task avoids, by key; what cannot be read is left out."""
    found = {}
    for note in notes:
        if note.startswith(_NOTE):
            try:
                key, account, visits, disproved, at = map(unquote, note.removeprefix(_NOTE).split(":"))
                found[key] = Visit(key, account, int(visits), int(disproved), float(at))
            except ValueError:
                continue
    return found


def visited(visits: dict[str, Visit], permit: Permit) -> Visit:
    """The visit that this refusal adds to those before it."""
    before = visits.get(permit.key, Visit(permit.key, permit.account))
    return Visit(
        permit.key,
        permit.account,
        before.visits + 1,
        before.disproved + (permit.proved_at > before.at),
        permit.released_at,
        permit.tested_at > before.at,
    )


def note_of(visit: Visit) -> str:
    """As it is remembered."""
    names = f"{quote(visit.key, safe='')}:{quote(visit.account, safe='')}"
    return f"{_NOTE}{names}:{visit.visits}:{visit.disproved}:{visit.at:.3f}"


def without(notes: Iterable[str], visit: Visit) -> list[str]:
    """What a task avoids, but for earlier visits to the same key."""
    mine = f"{_NOTE}{quote(visit.key, safe='')}:"
    return [note for note in notes if not note.startswith(mine)]


def is_its_own_fault(outcome: Outcome, visits: Collection[Visit], keys: Collection[str]) -> bool:
    """Whether the request is what was refused; `visits` is one for each key, `keys` all that could serve it."""
    disproved = sum(visit.disproved for visit in visits)
    nobody_left = {visit.key for visit in visits} >= set(keys)
    if outcome is Outcome.UNKNOWN_MODEL:
        return nobody_left
    if outcome is not Outcome.FORBIDDEN:
        return disproved > 1
    accounts = {visit.account for visit in visits}
    return (
        len(accounts) > 1
        or (nobody_left and len(visits) > 1)
        or disproved > 0
        or any(visit.tested for visit in visits)
    )


def wait(visit: Visit, visits: Collection[Visit], keys: Collection[str]) -> float:
    """Seconds until the task may try again."""
    others_left = set(keys) - {one.key for one in visits}
    if visit.visits == 1 and others_left:
        return 0.0
    return float(min(LONGEST_WAIT, 2.0 ** min(visit.visits - 1, 10)))
