"""Sign a callback as Standard Webhooks say, by their own library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

from app.callbacks.store.callbacks import ClaimedCallback


def signing_secrets(claimed: ClaimedCallback, now: float) -> list[str]:
    """The client's secret, and the one before it while both are valid."""
    secrets = [claimed.secret]
    if claimed.previous_secret is not None and now < (claimed.previous_until or 0.0):
        secrets.append(claimed.previous_secret)
    return secrets


def signed_headers(callback_id: str, body: bytes, secrets: Sequence[str], now: float) -> dict[str, str]:
    """The three headers; the signature has one part for each secret. `now` is Unix seconds, of this try."""
    at = math.floor(now)
    moment = datetime.fromtimestamp(at, UTC)
    text = body.decode()
    signatures = (Webhook(secret).sign(callback_id, moment, text) for secret in secrets)
    return {
        "webhook-id": callback_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signatures),
    }
