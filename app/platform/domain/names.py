"""Names: ids, Celery queues and metric labels.

A backlog queue is `backlog.<model>.<client>`. Model names may hold dots and slashes, client slugs may not, so a name
is split at its last dot. A key queue is `key.<key>`.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from urllib.parse import quote, unquote

BACKLOG = "backlog."
KEY = "key."
CALLBACKS = "callbacks"
SEPARATOR = "\x06\x16"  # kombu's, between a queue's name and its priority step
_SAFE = "/:@+=,"  # never % (our escape), spaces or control characters (Redis patterns, kombu's separator)


def backlog_queue(model: str, client: str) -> str:
    """Name the backlog queue of a client for a model."""
    return f"{BACKLOG}{quote(model, safe=_SAFE)}.{client}"


def parse_backlog_queue(name: str) -> tuple[str, str]:
    """Return (model, client). Raises ValueError if `name` is no backlog queue."""
    head, dot, client = name.rpartition(".")
    if not name.startswith(BACKLOG) or not dot or len(head) < len(BACKLOG):
        raise ValueError(f"not a backlog queue: {name!r}")
    return unquote(head[len(BACKLOG) :]), client


def key_queue(key: str) -> str:
    """Name the queue of what has been released to a key."""
    return f"{KEY}{quote(key, safe=_SAFE)}"


@lru_cache(maxsize=256)  # a file may name one wrong model in each of its lines
def nearest(name: str, known: frozenset[str]) -> str | None:
    """The known name that was probably meant: in other case, with or without a provider before a slash, misspelt."""
    forms = {form: one for one in sorted(known) for form in (_last(one), one.lower())}
    plain = name.strip().lower()
    for form in (plain, _last(plain)):
        if close := get_close_matches(form, forms, n=1, cutoff=0.8):
            return forms[close[0]]
    return None


def _last(name: str) -> str:
    return name.lower().rpartition("/")[2]


def redis_list(queue: str, step: int) -> str:
    """Name the Redis list in which kombu keeps a queue's messages of one priority step."""
    return queue if step == 0 else f"{queue}{SEPARATOR}{step}"


_ID = re.compile(r"([a-z]{1,10})_[0-9a-z]{1,64}")


def is_id(kind: str, text: str) -> bool:
    """Whether `text` may be the id of a thing of that kind, such as `task`."""
    match = _ID.fullmatch(text)
    return match is not None and match[1] == kind


OTHER = "other"


class Folded:
    """The first `most` names keep their own; whoever comes later is OTHER. Safe to use from many threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """The name's label."""
        known = self._known.get(name)
        if known is not None:
            return known
        if len(self._known) >= self._most:
            return OTHER
        return self._known.setdefault(name, name)


def folded_counts(counts: dict[str, int], most: int) -> dict[str, int]:
    """Figures of the `most` largest names, the sum of the rest under OTHER."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    found = dict(ordered[:most])
    if rest := sum(count for _, count in ordered[most:]):
        found[OTHER] = found.get(OTHER, 0) + rest
    return found
