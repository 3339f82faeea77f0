"""Where a callback stands."""

from __future__ import annotations

from enum import StrEnum


class CallbackState(StrEnum):
    """States of a callback. FAILED is a dead letter; a replay makes it PENDING again."""

    PENDING = "pending"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    FAILED = "failed"
