"""What an API key may be used for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

ALL = "*"
SCOPES = (
    "tasks:read",
    "tasks:write",
    "batches:read",
    "batches:write",
    "usage:read",
    "admin:read",
    "admin:write",
)
_AREAS = frozenset(scope.partition(":")[0] for scope in SCOPES)
_PREFIXES = (
    ("/v1/admin", "admin"),
    ("/v1/batch", "batches"),  # /v1/batches too
    ("/v1/files", "batches"),
    ("/v1/usage", "usage"),
)


def is_scope(text: str) -> bool:
    """Whether it may be granted: one of SCOPES, all of an area such as `batches:*`, or `*`."""
    area, _, rest = text.partition(":")
    return text == ALL or text in SCOPES or (area in _AREAS and rest == ALL)


def parse_scopes(wanted: Iterable[str]) -> frozenset[str]:
    """Check them. Raises ValueError that names the first unknown one, or when there is none."""
    found = frozenset(wanted)
    for scope in sorted(found):
        if not is_scope(scope):
            raise ValueError(f"there is no scope {scope[:40]!r}; there are {', '.join(SCOPES)}, AREA:* and *")
    if not found:
        raise ValueError("at least one scope is needed")
    return found


def allows(granted: Collection[str], wanted: str) -> bool:
    """Whether a key with these scopes may do what needs `wanted`. Who may write may read."""
    area, _, act = wanted.partition(":")
    if ALL in granted or wanted in granted or f"{area}:{ALL}" in granted:
        return True
    return act == "read" and f"{area}:write" in granted


def within(wanted: Iterable[str], granted: Collection[str]) -> bool:
    """Whether all of `wanted` may be handed on by who holds `granted`: nobody gives more than he has."""
    return all(_covered(scope, granted) for scope in wanted)


def scope_of(method: str, path: str) -> str:
    """The scope that a call needs. Only calls that change nothing are reading."""
    act = "read" if method in ("GET", "HEAD", "OPTIONS") else "write"
    plain = path.removeprefix("/api")
    area = next((area for prefix, area in _PREFIXES if plain.startswith(prefix)), "tasks")
    return f"{area}:read" if area == "usage" else f"{area}:{act}"


def _covered(scope: str, granted: Collection[str]) -> bool:
    if scope == ALL:
        return ALL in granted
    act = scope.partition(":")[2]
    if act == ALL:
        return ALL in granted or scope in granted
    return allows(granted, scope)
