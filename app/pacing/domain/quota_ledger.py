"""A quota while planning: what is left of it."""

from __future__ import annotations

from app.settings.domain.routing import QuotaState

NEVER = float("inf")
_DUST = 1e-6  # rounding of levels stored as decimals


class QuotaLedger:
    """Taken from on paper; the state that it began with stays as it was."""

    __slots__ = ("braked", "held_for", "level", "name", "room", "state", "tokens")

    def __init__(self, name: str, state: QuotaState, now: float) -> None:
        self.name = name
        self.state = state
        self.braked = state.braked_until > now
        self.held_for: float | None = None  # tokens of the head that holds its turn here
        self.level = state.level if state.requests else NEVER
        self.tokens = state.token_level if state.tokens else NEVER
        self.room = NEVER if state.cap is None else state.cap - state.flight

    @property
    def is_limited(self) -> bool:
        """Whether it has any limit."""
        return bool(self.state.requests or self.state.tokens or self.state.cap is not None)

    def is_open(self) -> bool:
        """Whether one more call passes, tokens aside."""
        return not self.braked and self.held_for is None and self.room >= 1 and self.level >= 1 - _DUST

    def lacks(self, estimate: float) -> bool:
        """Whether it has too few tokens; a full bucket lets any prompt pass."""
        tokens = self.state.tokens
        return tokens is not None and self.tokens < min(estimate, tokens.size) - _DUST

    def take(self, estimate: float) -> None:
        """Take a call out."""
        self.level -= 1
        self.tokens -= estimate
        self.room -= 1

    def after(self) -> QuotaState:
        """The quota as it stands after what was taken."""
        s = self.state
        taken = 0 if s.cap is None else int(s.cap - s.flight - self.room)
        return QuotaState(
            s.requests,
            self.level,
            s.tokens,
            self.tokens,
            s.cap,
            s.flight + taken,
            s.braked_until,
            s.reason,
            s.judged,
        )

    def opens_in(self, estimate: float, now: float) -> float:
        """Seconds until a call would pass, behind the head that holds its turn."""
        if not (self.is_limited or self.braked):
            return 0.0
        after = self.after()
        return max(after.opens_in(estimate, now), after.tokens_in(self.held_for or 0.0))

    def cost(self, estimate: float, call_seconds: float) -> float:
        """Seconds of this quota that a call takes: of whichever resource it takes most of; 0 without limits."""
        s = self.state
        return max(
            1 / s.requests.rate if s.requests and s.requests.rate else 0.0,
            estimate / s.tokens.rate if s.tokens and s.tokens.rate else 0.0,
            call_seconds / s.cap if s.cap else 0.0,
        )
