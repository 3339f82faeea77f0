"""Idempotency: a request that comes again with its key finds what the first one made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from app.platform.domain.duration import DAY
from app.platform.domain.errors import Invalid

KEPT_SECONDS = DAY  # how long a key is remembered
IDEMPOTENCY_KEY = "Idempotency-Key"
LONGEST = 255  # characters


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key, and the fingerprint of what it came with."""

    key: str
    fingerprint: str  # SHA-256 of operation and payload, hexadecimal


class Fingerprint:
    """Takes a payload in piece by piece."""

    def __init__(self, operation: str) -> None:
        self._digest = hashlib.sha256(operation.encode() + b"\n")

    def add(self, piece: bytes) -> None:
        """Go on with the next piece."""
        self._digest.update(piece)

    def text(self) -> str:
        """What it comes to, hexadecimal."""
        return self._digest.hexdigest()


def parse_key(header: str | None) -> str | None:
    """Read an Idempotency-Key, with or without the quotes of a structured header. Raises Invalid."""
    if header is None:
        return None
    key = header.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= LONGEST or not key.isascii() or not key.isprintable():
        raise Invalid(
            f"{IDEMPOTENCY_KEY}: must have 1 to {LONGEST} printable ASCII characters",
            param=IDEMPOTENCY_KEY,
            code="invalid_value",
        )
    return key


def check_repeat(repeat: IdempotencyKey, standing: str) -> None:
    """Refuse a key that stands for another payload; `standing` is the fingerprint of the first."""
    if repeat.fingerprint != standing:
        raise Invalid(
            f"{IDEMPOTENCY_KEY}: this key came with another payload in the last 24 hours",
            param=IDEMPOTENCY_KEY,
            code="idempotency_key_reused",
            status=422,
        )
