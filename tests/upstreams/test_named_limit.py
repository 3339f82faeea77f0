"""Which limit a refusal names."""

import pytest

from app.upstreams.domain.refusals import named_limit
from app.upstreams.domain.upstream_error import UpstreamError


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("Rate limit reached: concurrent requests of this account for model m", "calls"),
        ("Rate limit reached: requests per minute of this key for model m", "pace"),
        ("Rate limit reached for m on tokens per min (TPM): Limit 90000", "tokens"),
        ("您的账户并发数已达上限", "calls"),
        ("QPS limit exceeded", "pace"),
        ("Too many requests", None),
        ("requests per minute or tokens per minute exceeded", None),
        ("", None),
    ],
)
def test_a_refusal_names_one_limit_or_none(message: str, named: str | None) -> None:
    assert named_limit(UpstreamError(message)) == named
