"""Names of Celery queues, and what must be escaped in them.

A backlog queue is `backlog.<model>.<client>`: model names may hold dots and slashes, client slugs may not,
so a name is split at its last dot. A key queue is `key.<key>`.
"""

from __future__ import annotations

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
    """Give back (model, client). Raises ValueError if `name` is no backlog queue."""
    head, dot, client = name.rpartition(".")
    if not name.startswith(BACKLOG) or not dot or len(head) < len(BACKLOG):
        raise ValueError(f"not a backlog queue: {name!r}")
    return unquote(head[len(BACKLOG) :]), client


def key_queue(key: str) -> str:
    """Name the queue of what has been released to a key."""
    return f"{KEY}{quote(key, safe=_SAFE)}"


def redis_list(queue: str, step: int) -> str:
    """Name the Redis list in which kombu keeps a queue's messages of one priority step."""
    return queue if step == 0 else f"{queue}{SEPARATOR}{step}"
