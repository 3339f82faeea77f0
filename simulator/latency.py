"""Latency: a distribution, sampled with a given random source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution of seconds until the answer (of a stream: until its first piece).

    - `constant`: always `mean`;
    - `uniform`: between `low` and `high`;
    - `lognormal`: with this `mean` (of the values, not of their logarithms) and `sigma` (of the logarithms).
    """

    kind: Literal["constant", "uniform", "lognormal"] = "constant"
    mean: float = 0.0
    sigma: float = 0.5
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        """Reject values that cannot be a duration."""
        if min(self.mean, self.sigma, self.low, self.high) < 0:
            raise ValueError("a latency's figures must not be negative")
        if self.low > self.high:
            raise ValueError("a uniform latency needs low <= high")

    def sample(self, chance: Random) -> float:
        """Seconds for one answer."""
        if self.kind == "constant" or (self.kind == "lognormal" and self.mean == 0):
            return self.mean
        if self.kind == "uniform":
            return chance.uniform(self.low, self.high)
        # The mean of a lognormal is exp(mu + sigma^2 / 2).
        return chance.lognormvariate(math.log(self.mean) - self.sigma**2 / 2, self.sigma)


def parse_latency(text: str) -> Latency:
    """Read `0.2`, `constant:0.2`, `uniform:0.1-0.5` or `lognormal:MEAN,SIGMA`, all in seconds.

    Raises ValueError that lists the valid forms.
    """
    kind, colon, figures = text.partition(":")
    try:
        if not colon:
            return Latency(mean=float(text))
        if kind == "constant":
            return Latency(mean=float(figures))
        if kind == "uniform":
            low, high = figures.split("-")
            return Latency("uniform", low=float(low), high=float(high))
        if kind == "lognormal":
            mean, sigma = figures.split(",")
            return Latency("lognormal", mean=float(mean), sigma=float(sigma))
    except ValueError as error:
        raise ValueError(f"latency {text!r}: {error}; {_FORMS}") from None
    raise ValueError(f"latency {text!r} is not understood; {_FORMS}")


_FORMS = "write SECONDS, constant:SECONDS, uniform:LOW-HIGH or lognormal:MEAN,SIGMA"
