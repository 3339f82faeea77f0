"""Admits calls: checks key, body, balance and limits, in this order, and records every refusal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from hashlib import sha256

from simulator.answers import Answer, compose
from simulator.config import SimulatorConfig
from simulator.errors import ApiError, NoBalanceError, OverLimitError, UnauthorizedError
from simulator.limits import LimitState, Refusal, SimulatedCaller
from simulator.requests import ChatRequest, read_chat_request
from simulator.world import World

TASK_HEADER = "x-penstock-task"


@dataclass(frozen=True, slots=True)
class Call:
    """An admitted call; it counts against the limits until it ends."""

    sequence: int
    arrived_at: float
    caller: SimulatedCaller
    request: ChatRequest
    answer: Answer
    headers: bytes


def identify(config: SimulatorConfig, headers: Mapping[str, str]) -> tuple[str, str]:
    """The names of key and account. Raises UnauthorizedError.

    A configured key goes by its secret (it opens nothing but this simulator); a stranger that an open
    account lets in goes by a digest, in case somebody pointed a real key here.
    """
    scheme, _, secret = headers.get("Authorization", "").partition(" ")
    secret = secret.strip()
    account = config.keys.get(secret) if scheme.lower() == "bearer" else None
    if account is not None:
        return secret, account
    if config.open_account is None or scheme.lower() != "bearer" or not secret:
        raise UnauthorizedError(secret)
    return f"key-{sha256(secret.encode()).hexdigest()[:12]}", config.open_account


def admit(world: World, arrived_at: float, headers: Mapping[str, str], body: bytes) -> Call:
    """Admit a call that arrived at `arrived_at` and record it. Raises ApiError."""
    key = account = model = ""
    try:
        key, account = identify(world.config, headers)
        config = world.config
        request = read_chat_request(body, config.models, config.unknown_model_status, config.aliases)
        model = request.model
        if not world.balances.available(account):
            raise NoBalanceError
    except ApiError as error:
        world.ledger.reject(arrived_at, error.reason, key, account, model)
        raise
    answer = compose(request, world.config.answer_tokens)
    caller = SimulatedCaller(key, account, model)
    tokens = counted_tokens(world.config, request, answer)
    refusal = world.gate.admit(caller, tokens, arrived_at)
    limit_headers = _ratelimit_headers(world, caller, arrived_at)
    if refusal is not None:
        world.ledger.refuse(arrived_at, caller, refusal.reason)
        raise OverLimitError(_refusal_text(refusal), limit_headers + retry_after_header(refusal, arrived_at))
    world.ledger.admit(arrived_at, caller, tokens)
    digest = sha256(request.prompt.encode()).digest()
    sequence = world.log.open(arrived_at, caller, headers.get(TASK_HEADER), digest)
    return Call(sequence, arrived_at, caller, request, answer, limit_headers)


def counted_tokens(config: SimulatorConfig, request: ChatRequest, answer: Answer) -> int:
    """What a call draws from the token buckets."""
    if config.tokens_counted == "prompt":
        return request.prompt_tokens
    if config.tokens_counted == "reserved" and request.max_tokens is not None:
        return request.prompt_tokens + request.max_tokens
    return request.prompt_tokens + answer.completion_tokens


def retry_after_header(refusal: Refusal, now: float) -> bytes:
    """The retry header, in the limit's style; never too early."""
    seconds, style = refusal.retry_after_seconds, refusal.limit.retry_after
    if style == "none":
        return b""
    if style == "ms":
        return b"retry-after-ms: %d\r\n" % math.ceil(seconds * 1000)
    if style == "date":
        return b"retry-after: %b\r\n" % formatdate(math.ceil(now + seconds), usegmt=True).encode()
    return b"retry-after: %d\r\n" % max(1, math.ceil(seconds))


def _refusal_text(refusal: Refusal) -> str:
    limit, owner = refusal.limit, "this provider"
    if limit.key is not None or limit.account is not None:
        owner = "this account" if limit.key is None else "this key"
    what = {"rpm": "requests per minute", "tpm": "tokens per minute", "concurrency": "concurrent requests"}
    return f"Rate limit reached: {what[refusal.reason]} of {owner} for model {limit.model}"


def _ratelimit_headers(world: World, caller: SimulatedCaller, now: float) -> bytes:
    if not world.config.ratelimit_headers:
        return b""
    requests, tokens = world.gate.state(caller, now)
    return _limit_headers(b"requests", requests) + _limit_headers(b"tokens", tokens)


def _limit_headers(what: bytes, state: LimitState | None) -> bytes:
    if state is None:
        return b""
    figures = (what, state.limit, what, state.remaining, what, state.reset_seconds)
    return (
        b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %.3fs\r\n"
        % figures
    )
