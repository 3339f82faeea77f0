"""What the place table in Redis says of a waiting task: fields between bars, so escaped that no content breaks them.

estimate|avoid,avoid|facts|sequence|prefix|due|asked
"""

from __future__ import annotations

import math
from urllib.parse import quote, unquote

from app.pacing.domain.waiting import QueueHead
from app.tasks.domain.attempt import Message
from app.tasks.domain.task import NOT_DUE

_SAFE = ";:=/@+ "  # in any field; what parts fields (|), notes (,) or escapes (%) never is


def write_place(message: Message) -> str:
    """A message's entry; `read_place` reads it, scripts its sixth field alone."""
    avoid = ",".join(map(_escaped, message.avoid))
    due = "" if message.due >= NOT_DUE else f"{message.due:.3f}"
    facts, prefix = _escaped(message.facts, ","), _escaped(message.prefix)
    return f"{message.estimate}|{avoid}|{facts}|{message.sequence}|{prefix}|{due}|{message.asked or ''}"


def read_place(task_id: str, place: str) -> QueueHead:
    """A task by its entry. Raises ValueError for what is none."""
    estimate, avoid, facts, sequence, prefix, _due, asked = (place + "||||||").split("|")[:7]
    tokens = float(estimate)
    if not (math.isfinite(tokens) and tokens >= 0):
        raise ValueError(f"no estimate: {estimate[:20]!r}")
    notes = tuple(map(_plain, avoid.split(","))) if avoid else ()
    return QueueHead(
        task_id, tokens, notes, _plain(facts), int(sequence or 0), int(asked or 0), _plain(prefix)
    )


def _escaped(text: str, more: str = "") -> str:
    return quote(text, safe=_SAFE + more, errors="surrogatepass") if text else ""


def _plain(text: str) -> str:
    return unquote(text, errors="surrogatepass") if "%" in text else text
