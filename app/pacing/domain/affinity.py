"""Prefix affinity: tasks that begin alike prefer the account whose prompt cache has seen that beginning last."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.pacing.domain.tokens import text_tokens
from app.settings.domain.routing import Route

LEAST_TOKENS = 64.0  # of a beginning: upstreams cache whole blocks, and a shorter one has none
_REMEMBERED = 10_000


def prefix_of(client_id: str, model: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """A short name for the system prompt that a client's task for a model begins with; None for none of weight."""
    first = messages[0] if messages else {}
    content = first.get("content")
    if first.get("role") not in ("system", "developer") or not isinstance(content, str):
        return None
    if text_tokens(content) < LEAST_TOKENS:
        return None
    text = f"{client_id}\n{model}\n{content}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class PrefixAffinity:
    """The account that saw each prefix last, per prefix. Those not used longest are forgotten."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._accounts: OrderedDict[str, str] = OrderedDict()

    def get(self, prefix: str) -> str | None:
        """The account, if one has seen it."""
        return self._accounts.get(prefix)

    def saw(self, prefix: str, account: str) -> None:
        """An account gets a task that begins so."""
        self._accounts[prefix] = account
        self._accounts.move_to_end(prefix)
        if len(self._accounts) > self._most:
            self._accounts.popitem(last=False)


def prefer_cached_account(
    chosen: Route, account: str | None, tier: Iterable[Route], able: Iterable[Route]
) -> Route:
    """The route to take: of those able to, one of the account in the chosen one's own tier, else the chosen one."""
    if account is None or chosen.account == account:
        return chosen
    rank = set(tier)
    return next((route for route in able if route.account == account and route in rank), chosen)
