"""The header `Prefer` (RFC 7240), as far as it is honoured: `respond-async` and `wait=SECONDS`."""

from __future__ import annotations

from dataclasses import dataclass

PREFER = "Prefer"


@dataclass(frozen=True, slots=True)
class Preference:
    """What a caller prefers. `wait` is seconds, None when it did not say."""

    respond_async: bool = False
    wait: float | None = None

    def applied(self) -> str:
        """What to say in `Preference-Applied`."""
        words = ["respond-async"] if self.respond_async else []
        return ", ".join(words if self.wait is None else [*words, f"wait={self.wait:g}"])


def parse_prefer(header: str | None) -> Preference:
    """Read the header. Preferences that are unknown or malformed are ignored, as the RFC says."""
    respond_async, wait = False, None
    for part in (header or "").split(","):
        name, _, value = part.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async":
            respond_async = True
        elif name == "wait" and wait is None and value.isascii() and value.isdigit() and len(value) <= 9:
            wait = float(value)
    return Preference(respond_async, wait)
