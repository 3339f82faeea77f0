"""The profiles of providers: which one an upstream gets, what it holds, what an operator adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from app.cli.first_configuration import configuration_text
from app.cli.init import ProviderOptions, choose
from app.settings.provider_profiles import GENERIC, effective_profile, profile_name, profiles
from app.tasks.domain.attempt import Outcome
from app.upstreams.call_upstream import profile_of
from app.upstreams.domain.classify import CallVerdict, UpstreamProfile, classify
from app.upstreams.domain.upstream_words import Meaning
from tests.attempts import NOW, a_reply
from tests.settings.configurations import changed, load, refused
from tests.settings.providers_page import PAGE, page

ASKED_FOR = {
    "deepseek", "openai", "azure", "gemini", "anthropic", "mistral", "groq", "xai", "openrouter", "siliconflow",
    "zhipu", "moonshot", "bailian", "volcengine", "tencent", "modelscope", "together", "fireworks", "vllm", "ollama",
    "llama-cpp", "lm-studio", "one-api", "litellm",
}  # fmt: skip


def judge(name: str, status: int, body: Any) -> CallVerdict:
    profile = UpstreamProfile(effective_profile(name))
    return classify(a_reply(status, body), model="m", now=NOW, parse=orjson.loads, profile=profile)


def test_every_provider_has_a_profile_with_its_source() -> None:
    assert set(profiles()) >= ASKED_FOR
    assert all(
        one.title and one.docs.startswith("https://") for name, one in profiles().items() if name != GENERIC
    )


@pytest.mark.parametrize("name", profiles())
def test_every_profile_compiles_and_names_known_meanings(name: str) -> None:
    UpstreamProfile(effective_profile(name))
    assert set(effective_profile(name)["words"]) <= set(Meaning)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://acme.openai.azure.com/openai/deployments/gpt", "azure"),
        ("https://acme.openai.azure.com/openai/v1", "azure-v1"),
        ("https://ark.cn-beijing.volces.com/api/v3", "volcengine"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://api.openai.com.evil.example/v1", GENERIC),
        ("http://127.0.0.1:8000/v1", GENERIC),
    ],
)
def test_the_address_chooses_the_profile(address: str, name: str) -> None:
    assert profile_name(None, address) == name


def test_the_configured_profile_goes_before_the_address() -> None:
    assert profile_name("vllm", "https://api.groq.com/openai/v1") == "vllm"


CODES = [
    ("zhipu", 429, {"error": {"code": "1113", "message": "x"}}, Outcome.NO_BALANCE),
    ("zhipu", 429, {"error": {"code": "1305", "message": "x"}}, Outcome.OVERLOADED),
    ("zhipu", 400, {"error": {"code": "1301", "message": "x"}}, Outcome.CONTENT_REFUSED),
    ("zhipu", 400, {"error": {"code": "1261", "message": "x"}}, Outcome.CONTEXT_TOO_LONG),
    ("siliconflow", 403, {"code": 30001, "message": "x", "data": None}, Outcome.NO_BALANCE),
    ("siliconflow", 400, {"code": 20012, "message": "x", "data": None}, Outcome.UNKNOWN_MODEL),
    ("minimax", 200, {"base_resp": {"status_code": 1008, "status_msg": "x"}}, Outcome.NO_BALANCE),
    ("minimax", 200, {"base_resp": {"status_code": 1002, "status_msg": "x"}}, Outcome.RATE_LIMITED),
    (
        "volcengine",
        400,
        {"error": {"code": "SensitiveContentDetected.Violence", "message": "x"}},
        Outcome.CONTENT_REFUSED,
    ),
    (
        "volcengine",
        429,
        {"error": {"code": "RateLimitExceeded.EndpointTPMExceeded", "message": "x"}},
        Outcome.RATE_LIMITED,
    ),
    ("bailian", 400, {"error": {"code": "Arrearage", "message": "x"}}, Outcome.NO_BALANCE),
    (
        "tencent",
        200,
        {"Response": {"Error": {"Code": "AuthFailure.SecretIdNotFound", "Message": "x"}}},
        Outcome.UNAUTHORIZED,
    ),
    ("groq", 498, {"error": {"message": "x"}}, Outcome.OVERLOADED),
    ("groq", 413, {"error": {"message": "x"}}, Outcome.CONTEXT_TOO_LONG),
    ("fireworks", 412, {"error": {"message": "x"}}, Outcome.NO_BALANCE),
    ("anthropic", 529, {"error": {"type": "overloaded_error", "message": "x"}}, Outcome.OVERLOADED),
    ("one-api", 500, {"error": {"code": "channel:no_available_key", "message": "x"}}, Outcome.OVERLOADED),
    (GENERIC, 412, {"error": {"message": "x"}}, Outcome.INVALID_REQUEST),
    (GENERIC, 400, {"error": {"code": "1301", "message": "x"}}, Outcome.INVALID_REQUEST),
]


@pytest.mark.parametrize(("name", "status", "body", "outcome"), CODES)
def test_codes_mean_what_their_provider_says(name: str, status: int, body: Any, outcome: Outcome) -> None:
    assert judge(name, status, body).outcome is outcome


LITELLM = [
    (
        400,
        "Invalid model name passed in model=x. Call `/v1/models` to view available models for your key.",
        "",
        Outcome.UNKNOWN_MODEL,
    ),
    (
        401,
        "key not allowed to access model. This key can only access models=['a'].",
        "key_model_access_denied",
        Outcome.UNKNOWN_MODEL,
    ),
    (
        403,
        "Team not allowed to access model. Tried to access x",
        "team_model_access_denied",
        Outcome.UNKNOWN_MODEL,
    ),
    (
        400,
        "Budget has been exceeded! Current cost: 3.0, Max budget: 2.0",
        "budget_exceeded",
        Outcome.NO_BALANCE,
    ),
    (429, "ExceededBudget: User=x over budget.", "budget_exceeded", Outcome.NO_BALANCE),
    (
        401,
        "Authentication Error, Invalid proxy server token passed.",
        "token_not_found_in_db",
        Outcome.UNAUTHORIZED,
    ),
    (
        400,
        "Authentication Error - Expired Key. Key Expiry time 2026-01-01",
        "expired_key",
        Outcome.UNAUTHORIZED,
    ),
    (429, "No deployments available for selected model, Try again in 5 seconds.", "", Outcome.OVERLOADED),
    (429, "Max parallel request limit reached", "", Outcome.RATE_LIMITED),
    (400, "Violated guardrail policy", "", Outcome.CONTENT_REFUSED),
    (400, "litellm.ContextWindowExceededError: too many", "", Outcome.CONTEXT_TOO_LONG),
]


@pytest.mark.parametrize("name", ["litellm", GENERIC])
@pytest.mark.parametrize(("status", "message", "kind", "outcome"), LITELLM)
def test_what_litellms_proxy_says_is_understood(
    name: str, status: int, message: str, kind: str, outcome: Outcome
) -> None:
    assert (
        judge(name, status, {"error": {"message": message, "type": kind, "code": str(status)}}).outcome
        is outcome
    )


def test_an_operator_adds_words_and_changes(tmp_path: Path) -> None:
    text = changed(
        'name = "deepseek"',
        'name = "deepseek"\nprofile = "groq"\n'
        'quirks = { words = { busy = { begins = ["the oven is cold"] } }, statuses = { 418 = "busy" }, '
        'request = { auth = "X-Api-Key", drop = ["user"], query = { v = "2" } } }',
    )
    settings = load(tmp_path, text)
    profile = profile_of(settings.upstreams[0])
    body = {"error": {"message": "The oven is cold"}}
    verdict = classify(a_reply(400, body), model="m", now=NOW, parse=orjson.loads, profile=profile)
    assert verdict.outcome is Outcome.OVERLOADED
    teapot = classify(a_reply(418, {}), model="m", now=NOW, parse=orjson.loads, profile=profile)
    assert teapot.outcome is Outcome.OVERLOADED
    assert profile.auth_header("k") == {"x-api-key": "k"}
    assert [fix.parameter for fix in profile.fixes] == ["user", "logit_bias", "logprobs", "top_logprobs"]
    assert profile.query == {"v": "2"}


def test_a_profile_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    error = refused(tmp_path, changed('name = "deepseek"', 'name = "deepseek"\nprofile = "grok"'))
    assert 'no built-in profile "grok"' in str(error)
    assert "groq" in str(error)


def test_an_own_word_of_an_unknown_meaning_is_refused(tmp_path: Path) -> None:
    text = changed(
        'name = "deepseek"', 'name = "deepseek"\nquirks = { words = { bussy = { says = ["x"] } } }'
    )
    assert "'no_balance', 'dead_k" in str(refused(tmp_path, text))


def test_the_page_of_providers_is_made_from_the_profiles() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `make providers`"


def test_init_writes_the_profile_where_the_address_does_not_tell_it() -> None:
    given = ProviderOptions((), (), ("ollama=llama3",))
    text = configuration_text(choose(["ollama", "deepseek"], given))
    assert text.count('profile = "') == 1
    assert 'profile = "ollama"' in text
