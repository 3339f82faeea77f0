"""Names that may become labels of figures: so many of them, and all others under one word."""

from __future__ import annotations

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
