"""Answers as providers have been reported to give them, each judged by a provider's profile.

A line of provider_answers.jsonl is one answer (`body`: JSON, or a text as it was sent) and what it means: the outcome,
the seconds to wait, and the first fix that its words suggest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.settings.provider_profiles import effective_profile
from app.upstreams.domain.classify import UpstreamProfile, classify
from tests.attempts import NOW, a_reply

CASES = [
    json.loads(line) for line in Path(__file__).with_name("provider_answers.jsonl").open(encoding="utf-8")
]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_an_answer_means_what_its_provider_means(case: dict[str, Any]) -> None:
    body = case["body"].encode() if isinstance(case["body"], str) else case["body"]
    found = classify(
        a_reply(case["status"], body, **case.get("headers", {})),
        model="gpt-4o",
        now=NOW,
        parse=orjson.loads,
        profile=UpstreamProfile(effective_profile(case["profile"])),
    )
    assert found.outcome.value == case["outcome"]
    assert found.retry_after_seconds == pytest.approx(case.get("wait"))
    if "fix" in case:
        assert str(found.fixes[0]) == f"repair:{case['fix']}"
