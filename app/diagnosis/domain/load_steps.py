"""A load test in rising steps: what each step came to, and the verdict by thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.diagnosis.domain.percentiles import Percentiles, percentiles


@dataclass(frozen=True, slots=True)
class LoadAnswer:
    """One request: seconds until its whole answer. `error` is empty if it succeeded, else a word or two."""

    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a step must keep to; None: anything is allowed. Seconds; errors as a share (0 to 1)."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    errors: float | None = 0.01


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One step: so many users at once, each sending its next request when the last one is answered."""

    users: int
    seconds: float  # from the first request to the last answer
    requests: int
    times: Percentiles  # of successful requests
    errors: Mapping[str, int] = field(default_factory=dict)
    broken: tuple[str, ...] = ()  # thresholds that were not kept, in words

    @property
    def error_share(self) -> float:
        """Failed requests, as a share."""
        return sum(self.errors.values()) / self.requests if self.requests else 0.0

    @property
    def a_second(self) -> float:
        """Successful requests a second."""
        return (self.requests - sum(self.errors.values())) / self.seconds if self.seconds else 0.0


def judge_step(users: int, seconds: float, answers: Sequence[LoadAnswer], kept: Thresholds) -> LoadStep:
    """Sum up a step and hold it against the thresholds. A step without one success keeps none."""
    times = percentiles([answer.seconds for answer in answers if not answer.error])
    errors = Counter(answer.error for answer in answers if answer.error)
    share = errors.total() / len(answers) if answers else 1.0
    broken = [
        f"{name.upper()} {found:.2f} s > {most:g} s"
        for name, found in times._asdict().items()
        if (most := getattr(kept, name)) is not None and found > most
    ]
    if kept.errors is not None and share > kept.errors:
        broken.append(f"errors {share:.1%} > {kept.errors:.1%}")
    if share == 1.0:
        broken.append("no request succeeded")
    return LoadStep(users, seconds, len(answers), times, dict(errors), tuple(broken))


def held(steps: Sequence[LoadStep]) -> int:
    """The most users of the steps before the first that broke a threshold; 0: none."""
    users = 0
    for step in steps:
        if step.broken:
            break
        users = step.users
    return users


def verdict(steps: Sequence[LoadStep]) -> str:
    """One sentence."""
    failed = next((step for step in steps if step.broken), None)
    if failed is None:
        return (
            f"passed: {held(steps):,} users at once are served within the thresholds"
            if steps
            else "nothing was sent"
        )
    most = held(steps)
    before = f"{most:,} users at once are served" if most else "no step kept the thresholds"
    return f"failed: {before}; {failed.users:,} are not: {'; '.join(failed.broken)}"
