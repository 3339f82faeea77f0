"""Turn a request into the row to store, or into the reason why it is refused. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import orjson

from app.access.domain.caller import NO_LIMITS, ClientLimits
from app.billing.domain.calendar import Calendar, Windows, latest_start
from app.caching.domain.caching import NO_CACHE, CacheRules, CacheUsage, CacheUse, Fallback, combined, use_of
from app.pacing.domain.route_availability import prefix_of
from app.pacing.domain.tokens import LARGEST, PER_MEDIA, answer_limit, asked_for, estimate, prompt_tokens
from app.pacing.ports import Explain
from app.platform.domain.errors import Invalid
from app.platform.domain.names import backlog_queue, nearest
from app.platform.domain.url_rules import BadTarget, TargetRules, parse_target
from app.settings import Settings
from app.settings.tier_models import DOWN, spans_of
from app.submission.domain.request import DEFAULT_EXPIRY, LONGEST_EXPIRY, BatchRequest, TaskRequest
from app.tasks.domain.eligibility import TierFacts, condition_id, write_facts
from app.tasks.domain.rows import NewTask
from app.tasks.domain.task import NOT_DUE, Hold, Priority, PriorityStep, new_id


def conditions_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The tier conditions of each model; models without any are omitted."""
    found = {
        m.name: tuple(dict.fromkeys(t.when for t in m.all_tiers if t.when and t.when != DOWN))
        for m in settings.models
    }
    return {model: texts for model, texts in found.items() if texts}


def judge_conditions(
    texts: Sequence[str],
    request: TaskRequest,
    *,
    client: str,
    region: str,
    step: int,
    since: float,
    per_media: int = PER_MEDIA,
    calendars: Mapping[str, Calendar] | None = None,
) -> str | None:
    """Evaluate a model's tier conditions once, while prompt and metadata are at hand.

    Returns the facts that travel with the task; None if no tier of its model has a condition.
    """
    if not texts:
        return None
    known = {
        "prompt_tokens": prompt_tokens(request.messages, request.parameters, per_media),
        "max_tokens": answer_limit(request.parameters),
        "metadata": request.metadata,
        "client": client,
        "region": region,
        "priority": PriorityStep(step).name.lower(),
    }
    since = float(round(since))  # as it is written
    judged = {condition_id(text): spans_of(text, known, since, calendars) for text in texts}
    return write_facts(TierFacts(since, {name: spans for name, spans in judged.items() if spans})) or None


_queue = lru_cache(1024)(backlog_queue)


@dataclass(frozen=True, slots=True)
class SubmissionRules:
    """What the configuration says about submissions."""

    models: frozenset[str]
    default_model: str | None = None
    policies: frozenset[str] = frozenset({"default"})  # names of retry policies
    targets: TargetRules = field(default_factory=TargetRules)
    cache: CacheRules = field(default_factory=lambda: CacheRules(enabled=False))
    versions: Mapping[str, str] = field(default_factory=dict)  # cache versions, by model
    conditions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of tiers, by model
    calendars: Mapping[str, Calendar] = field(default_factory=dict)  # that conditions may name
    regions: Mapping[str, str] = field(default_factory=dict)  # of clients
    cache_usage: Mapping[str, CacheUsage] = field(default_factory=dict)  # by model, where it differs
    fallbacks: Mapping[str, Fallback] = field(default_factory=dict)  # what may answer instead, by model
    store: bool = True  # whether content is kept where neither request nor client decides
    windows: Mapping[str, Windows] = field(default_factory=dict)  # busy hours, by model
    aliases: Mapping[str, str] = field(default_factory=dict)  # to models
    per_media: int = PER_MEDIA  # tokens of an image or a file


@dataclass(frozen=True, slots=True)
class Place:
    """A task's place in a batch."""

    batch_id: str
    index: int  # from 0
    options: BatchRequest
    expires_at: float  # of the batch; no task of it lives longer
    in_file: bool = False  # a line of a file; else an element of a body

    @property
    def within(self) -> str:
        """What precedes the name of a field in errors."""
        return "body." if self.in_file else f"requests[{self.index}]."

    @property
    def custom_id_param(self) -> str:
        """How errors name the custom id, which a line has outside its body."""
        return "custom_id" if self.in_file else f"{self.within}custom_id"


def draft_task(
    request: TaskRequest,
    client_id: str,
    rules: SubmissionRules,
    now: float,
    place: Place | None = None,
    limits: ClientLimits = NO_LIMITS,
) -> NewTask:
    """Check a request and make its row, without storing it.

    `now` is Unix seconds; `limits`: the client's, which decide what the request leaves open. Raises Invalid
    that names the field, in a batch as `requests[3].model`.
    """
    within = place.within if place else ""
    options = place.options if place else BatchRequest()
    model = check_model(request.model or options.model, rules, within)
    check_policy(request.retry, rules, within)
    check_callback(request.callback_url, rules, within)
    run_at, expires_at = _times(request, now, place, within)
    off_peak = (request.off_peak or options.off_peak) and run_at <= now
    available_at = _off_peak_from(model, now, expires_at, rules, within) if off_peak else run_at
    hold = _hold(place, available_at > now, off_peak=off_peak)
    step = (request.priority or options.priority or Priority.NORMAL).step
    body = {"messages": request.messages, **request.parameters}
    stored = _first(request.store, limits.store, rules.store)
    cache = replace(rules.cache, usage=_cache_usage(model, rules, limits))
    use = (
        _cache_use(request, body, client_id, model, replace(rules, cache=cache), within)
        if stored
        else NO_CACHE
    )
    order = request.order or options.order or limits.order
    return NewTask(
        id=new_id("task", now),
        client_id=client_id,
        model=model,
        queue=_queue(model, client_id),
        step=step,
        estimate=min(estimate(request.messages, request.parameters, per_media=rules.per_media), LARGEST),
        asked=min(asked_for(request.parameters), LARGEST),
        created_at=now,
        available_at=available_at,
        expires_at=expires_at,
        due=expires_at if order == "deadline" else NOT_DUE,
        hold=hold,
        fed_at=now if hold is Hold.NONE else None,  # published as soon as it is stored
        off_peak=off_peak,
        degrade_at=_degrade_at(request, rules.fallbacks.get(model), available_at, options, limits),
        batch_id=place.batch_id if place else None,
        batch_index=place.index if place else None,
        custom_id=request.custom_id,
        stream=request.stream,
        stored=stored,
        prefix=prefix_of(client_id, model, request.messages),
        facts=judge_conditions(
            rules.conditions.get(model, ()),
            request,
            client=client_id,
            region=rules.regions.get(client_id, ""),
            step=step,
            since=available_at,
            per_media=rules.per_media,
            calendars=rules.calendars,
        ),
        retry=request.retry or options.retry,
        callback_url=request.callback_url,
        metadata=as_json(request.metadata, f"{within}metadata"),
        cache_key=use.key,
        cache_look=use.look,
        cache_seconds=use.keep_seconds,
        request=as_json(body, f"{within}parameters") or "{}",
    )


def _cache_use(
    request: TaskRequest,
    body: Mapping[str, Any],
    client_id: str,
    model: str,
    rules: SubmissionRules,
    within: str,
) -> CacheUse:
    """How a request uses the cache. A stream neither uses a cached answer nor leaves one."""
    if request.stream:
        return NO_CACHE
    version = rules.versions.get(model, "")
    try:
        return use_of(
            request.cache, rules.cache, client_id=client_id, model=model, version=version, body=body
        )
    except Invalid as error:
        raise Invalid(f"{within}{error.message}", param=f"{within}{error.param}", code=error.code) from None
    except RecursionError:
        return NO_CACHE  # `as_json` refuses what is nested too deeply, with a clear message


def _off_peak_from(model: str, now: float, expires_at: float, rules: SubmissionRules, within: str) -> float:
    """When off-peak hours begin, or a minute before the deadline if that is earlier."""
    windows = rules.windows.get(model)
    if windows is None:
        raise Invalid(
            f"{within}window: no busy hours are configured for {model!r}; its upstream needs a calendar (busy = [...])",
            param=f"{within}window",
            code="no_calendar",
        )
    return max(now, min(windows.quiet_from(now), latest_start(expires_at, 0, 1.0)))


def _degrade_at(
    request: TaskRequest,
    fallback: Fallback | None,
    available_at: float,
    options: BatchRequest,
    limits: ClientLimits,
) -> float | None:
    """When the model's fallback may answer; None: never."""
    if fallback is None:
        return None
    allowed = _first(request.allow_degraded, options.allow_degraded, limits.allow_degraded, fallback.always)
    return available_at + fallback.after if allowed else None


def _first(*decisions: bool | None) -> bool:
    """The first that was decided."""
    return next((bool(decision) for decision in decisions if decision is not None), False)


def _cache_usage(model: str, rules: SubmissionRules, limits: ClientLimits) -> CacheUsage:
    own = CacheUsage(limits.cache) if limits.cache is not None else None
    return combined(rules.cache_usage.get(model, rules.cache.usage), own)


def _hold(place: Place | None, later: bool, *, off_peak: bool) -> Hold:
    """Why the row may not run yet. Rows of a batch are released once all of it is stored."""
    if place is not None:
        return Hold.BATCH
    if later and off_peak:
        return Hold.OFF_PEAK
    return Hold.UNTIL if later else Hold.NONE


def check_model(name: str | None, rules: SubmissionRules, within: str = "") -> str:
    """The model to run: the named one, by any of its names, or the default. Raises Invalid."""
    chosen = name or rules.default_model
    if chosen is None:
        raise Invalid(
            f"{within}model: required, as no default_model is configured",
            param=f"{within}model",
            code="missing_field",
        )
    chosen = rules.aliases.get(chosen, chosen)
    if chosen not in rules.models:
        known = ", ".join(sorted(rules.models)[:20]) or "none"
        raise Invalid(
            f"{within}model: {chosen!r} is not configured; {_near(chosen, rules)}models are: {known}",
            param=f"{within}model",
            code="model_not_found",
        )
    return chosen


def _near(model: str, rules: SubmissionRules) -> str:
    found = nearest(model, rules.models.union(rules.aliases))
    return f"did you mean {found!r}? " if found else ""


def check_policy(name: str | None, rules: SubmissionRules, within: str = "") -> None:
    """Check that a retry policy is configured. Raises Invalid."""
    if name is not None and name not in rules.policies:
        known = ", ".join(sorted(rules.policies))
        raise Invalid(
            f"{within}retry: policy {name!r} is not configured; policies are: {known}",
            param=f"{within}retry",
            code="unknown_retry_policy",
        )


def check_callback(url: str | None, rules: SubmissionRules, within: str = "") -> None:
    """Refuse a URL that callbacks may never go to. Addresses are checked again when the socket opens."""
    if url is None:
        return
    try:
        parse_target(url, rules.targets)
    except BadTarget as error:
        param = f"{within}callback_url"
        raise Invalid(f"{param}: {error}", param=param, code="invalid_callback_url") from None


def as_json(value: Mapping[str, object] | None, param: str) -> str | None:
    """A parsed value as JSON text. Raises Invalid if it is nested too deeply."""
    if value is None:
        return None
    try:
        return orjson.dumps(value).decode()
    except (orjson.JSONEncodeError, RecursionError):
        raise Invalid(
            f"{param}: cannot be stored; it is probably nested too deeply", param=param, code="invalid_value"
        ) from None


def _times(request: TaskRequest, now: float, place: Place | None, within: str) -> tuple[float, float]:
    """When the task may run, and when it expires: `expires_in` counts from the former."""
    inherited = place.options.run_at if place is not None else None
    available_at = max(now, request.run_at or inherited or 0.0)
    if available_at > now + LONGEST_EXPIRY:
        raise Invalid(
            f"{within}run_at: must be at most 30 days ahead", param=f"{within}run_at", code="invalid_value"
        )
    expires_at = available_at + (request.expires_in or DEFAULT_EXPIRY)
    if place is None:
        return available_at, expires_at
    if available_at >= place.expires_at:
        raise Invalid(
            f"{within}run_at: must be before the batch expires", param=f"{within}run_at", code="invalid_value"
        )
    own = expires_at if request.expires_in else place.expires_at
    return available_at, min(own, place.expires_at)


def estimate_start(row: NewTask, explain: Explain, now: float) -> None:
    """Write into a drafted row when it is likely to start, so that forecasts can later be held against what came.

    In place: a copy would cost more than the look-up, and a batch may have 50,000 rows.
    """
    row.estimated_start_at = _starts_at(row, explain, now)


def _starts_at(row: NewTask, explain: Explain, now: float) -> float | None:
    if row.available_at > now:
        return row.available_at
    if row.hold not in (Hold.NONE, Hold.BATCH):  # a batch is released as soon as all of it is stored
        return None
    forecast = explain.foresee(row.model, row.queue, row.step, row.due)
    seconds = None if forecast is None else forecast.starts_in()
    return None if seconds is None else now + seconds
