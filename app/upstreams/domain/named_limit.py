"""Which limit a refusal names in its words, where it names one."""

from __future__ import annotations

import re

from app.upstreams.domain.attribute_refusal import Figure
from app.upstreams.domain.upstream_error import UpstreamError

_CALLS = re.compile(r"\bconcurren|\bin flight\b|\bsimultaneous|\bparallel requests", re.IGNORECASE)
_TOKENS = re.compile(r"\btokens? per (min|sec|day)|\btpm\b|\btokens[_ ]limit", re.IGNORECASE)
_PACE = re.compile(
    r"\brequests? per (min|sec|day)|\brpm\b|\bqps\b|\brps\b|\btoo many requests per\b", re.IGNORECASE
)


def named_limit(error: UpstreamError) -> Figure | None:
    """`calls` at once, `tokens` or `pace` (calls a minute or second); None when it names none, or more than one."""
    text = f"{error.code} {error.type} {error.message}"
    named: set[Figure] = set()
    if _CALLS.search(text) or "并发" in text:
        named.add("calls")
    if _TOKENS.search(text):
        named.add("tokens")
    if _PACE.search(text):
        named.add("pace")
    return named.pop() if len(named) == 1 else None
