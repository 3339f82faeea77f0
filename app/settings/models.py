"""What can be set. Each setting is explained above its default; the values are immutable.

In the file the tables are named in the singular, as an operator writes them one by one ([[upstream]],
[[key]], [[quota]], [[model]], [retry.NAME]); here they are collections.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from app.settings.alert_models import AlertSettings
from app.settings.config_errors import config_error
from app.settings.cost_models import CacheSettings, NamedCalendarSettings, PriceSettings
from app.settings.judgement_models import BreakerSettings, HealthSettings, LearningSettings, PaceSettings
from app.settings.provider_profiles import ProfileSettings
from app.settings.tier_models import HasTiers
from app.settings.values import (
    Count,
    FromList,
    HeaderName,
    HeaderValue,
    KeyName,
    Name,
    Network,
    Origin,
    Ports,
    Positive,
    ProxyAddress,
    Reference,
    Seconds,
    Section,
    is_reference,
)

DAY = 86_400.0
_KEPT = Annotated[float, Field(gt=0, le=3650 * DAY)]


class AccessSettings(Section):
    """[access]: policies, proxies, the audit log."""

    # Decision when no policy applies: "allow" or "deny".
    default: Literal["allow", "deny"] = "allow"
    # Networks (CIDR) of proxies whose X-Forwarded-For is believed, such as ["10.0.0.0/8"].
    trusted_proxies: Annotated[tuple[Network, ...], FromList] = ()
    # Networks by name, for the condition `zone` of policies: { office = ["192.168.0.0/16"] }.
    zones: dict[str, Annotated[tuple[Network, ...], FromList]] = Field(default_factory=dict)
    # Origins of pages that may call the API from a browser (CORS), such as ["https://app.example.com"]; "*": any.
    cors_origins: Annotated[tuple[Origin, ...], FromList] = ()
    # Retention of audit log entries in seconds.
    audit_retention: _KEPT = 400 * DAY


class StorageSettings(Section):
    """[storage]: how long prompts and results are kept, and how."""

    # Seconds after its end until a task is deleted with its prompt and result; clients may have their own retention.
    retention: _KEPT = 30 * DAY
    # Whether prompts and results are kept where neither the request nor its client's `store` limit says so. If false,
    # they are erased once the result has been delivered.
    store: bool = True
    # Seconds after its end until a task with `store: false` is erased; earlier once its callback is delivered.
    unstored: Annotated[float, Field(ge=0, le=30 * DAY)] = 3600.0
    # Where the key is that encrypts prompts and results in the database: "env:NAME", "file:PATH" or
    # "command:PROGRAM ARGS"; "": they are stored as they are.
    encryption_key: str = Field(default="", repr=False)
    # References to former keys, which still decrypt what they encrypted.
    previous_keys: Annotated[tuple[str, ...], FromList] = Field(default=(), repr=False)

    @field_validator("encryption_key")
    @classmethod
    def _is_a_reference(cls, value: str) -> str:
        if value and value.partition(":")[0] not in ("env", "file", "command"):
            raise config_error(
                "must say where the key is, not be it", 'write "env:NAME", "file:PATH" or "command:..."'
            )
        return value


MIB = 1024 * 1024


class UpstreamSettings(Section):
    """[[upstream]]: an OpenAI-compatible provider endpoint."""

    # Keys refer to the upstream by this name.
    name: Name
    # Where its API begins, such as "https://api.deepseek.com/v1"; "/chat/completions" is added to it.
    base_url: str
    # Total timeout of one call in seconds: connecting, waiting for the provider, reading the body.
    timeout: Seconds = 600.0
    # Timeout for opening a connection in seconds, TLS included.
    connect_timeout: Seconds = 5.0
    # Timeout in seconds from the request to the answer's first byte; left out: `timeout` alone counts. Providers
    # that do not stream send nothing until the answer is ready.
    first_byte_timeout: Seconds | None = None
    # Timeout in seconds for a pause within an answer that has begun; heartbeats and blank lines end the pause.
    idle_timeout: Seconds = 120.0
    # Connections kept open between calls, by each worker process; left out: as many as it makes calls at once.
    max_idle: Annotated[int, Field(ge=0)] | None = None
    # How long an unused connection is kept, in seconds; left out: as long as `max_age`.
    max_idle_seconds: Seconds | None = None
    # After how many seconds a connection is not used again, so that a provider's change of addresses is followed.
    max_age: Seconds = 600.0
    # The oldest TLS to speak, "1.2" or "1.3"; left out: what this machine's OpenSSL allows.
    min_tls: Literal["1.2", "1.3"] | None = None
    # Maximum size of a response body in bytes; a larger one fails the task with response_too_large.
    max_body: Count = 32 * MIB
    # The built-in price list it goes by, such as "deepseek"; left out: the one of its address, if there is
    # one; "": none. [[price]] goes before it.
    prices: str | None = None
    # Calendars of its busy hours, dear or congested, such as ["deepseek"]; tasks with window = "off_peak" wait
    # for their end. Left out: the one of its price list, if that has one; []: none.
    busy: Annotated[tuple[str, ...], FromList] | None = None
    # Where it runs, in your own terms, such as "cn" or "eu-west". Policies refer to it as region:...
    region: str = ""
    # Whether only workers started for its region call it (`penstock worker --region ...`), such as an endpoint
    # at the edge that others cannot reach. Needs a region.
    bound: bool = False
    # A proxy on the way to it, such as "http://proxy.internal:3128"; https passes through it as a tunnel. Also https://
    # (TLS to the proxy), socks5:// and socks5h:// (the proxy resolves the name).
    # "": none, whatever the environment says.
    proxy: ProxyAddress = ""
    # Where the proxy's "user:password" is: "env:NAME", "file:PATH" or "command:PROGRAM ARGS"; "": it needs none.
    proxy_auth: Reference = Field(default="", repr=False)
    # Headers of every call to it, such as { X-Title = "our service" }. A value that is secret is given by
    # reference, as "env:NAME".
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, repr=False)
    # PEM file of certificate authorities to trust in addition to the system's; "": none.
    ca_file: str = ""
    # Its status page in the format of Atlassian Statuspage, such as
    # "https://status.deepseek.com/api/v2/status.json"; `penstock doctor` reads it. "": none.
    status_page: str = ""
    # Whether it accepts gzip; if so, larger request bodies are compressed.
    gzip: bool = False
    # The built-in profile of what it says and accepts, such as "groq"; left out: the one of its address, if there is
    # one, else "generic".
    profile: str | None = None
    # What differs from that profile: own words for its errors, changes to its requests. See docs/providers.md.
    quirks: ProfileSettings = ProfileSettings()
    # Parameters that it takes anyway when they are left out, such as { temperature = 1, top_p = 1 }. Where a
    # request says the same they are dropped before the call.
    defaults: dict[str, Any] = Field(default_factory=dict)

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise config_error(
                "must be a full http or https address", 'write it like "https://api.deepseek.com/v1"'
            )
        if parts.username is not None or parts.password is not None:
            raise config_error(
                "must not hold a name or password", "put the credential into the secret of a [[key]]"
            )
        if parts.query or parts.fragment:
            raise config_error(
                "must not hold ? or #", "end it with the path that the provider documents, as /v1"
            )
        return value.rstrip("/")

    @model_validator(mode="after")
    def _has_what_its_settings_need(self) -> Self:
        if self.bound and not self.region:
            raise config_error("is bound to no region", 'write region = "..." with bound = true')
        if self.proxy_auth and not self.proxy:
            raise config_error("has a proxy_auth without a proxy", 'write proxy = "http://HOST:PORT"')
        if self.ca_file and not any(to.startswith("https:") for to in (self.base_url, self.proxy)):
            raise config_error("has a ca_file, but no https address", "take it out, or correct base_url")
        return self


class KeySettings(Section):
    """[[key]]: a credential of ours at an upstream."""

    # What tiers and quotas refer to it by, and what its queue in Flower is called: `key.<name>`.
    name: KeyName
    # The name of the [[upstream]] it opens.
    upstream: str
    # Where the credential is, never the credential itself: "env:NAME", "file:PATH" or "command:PROGRAM ARGS".
    secret: str = Field(repr=False)
    # Its owner at the provider. Keys of one account share that account's quotas. Left out: one of its own.
    account: KeyName = Field(default_factory=lambda known: known.get("name", ""))
    # Its weight among the keys of a tier.
    weight: Positive = 1.0

    @field_validator("secret")
    @classmethod
    def _is_a_reference(cls, value: str) -> str:
        if not is_reference(value):
            raise config_error(
                "must say where the secret is, not be it",
                'write "env:NAME", "file:PATH" or "command:PROGRAM ARGUMENTS"',
            )
        return value


class QuotaSettings(Section):
    """[[quota]]: what an account or a key may use of an upstream model. Figures left out are learned."""

    # Whose quota: the name of an account, or ...
    account: KeyName | None = None
    # ... of one key. Exactly one of the two.
    key: str | None = None
    # The upstream's name of the model; "*" is one quota shared by all of its models.
    model: Name = "*"
    # Calls per 60 seconds (sliding window).
    rpm: Positive | None = None
    # Calls that may start at once after an idle period, counted within rpm. If omitted, one second's worth, at least 1.
    burst: Annotated[float, Field(ge=1)] | None = None
    # Tokens per minute, prompt and completion together.
    tpm: Positive | None = None
    # Concurrent calls.
    concurrency: Count | None = None

    @model_validator(mode="after")
    def _has_one_owner(self) -> Self:
        if (self.account is None) == (self.key is None):
            raise config_error("needs exactly one of account and key", 'write account = "..." or key = "..."')
        return self

    @model_validator(mode="after")
    def _burst_leaves_a_rate(self) -> Self:
        if self.burst is not None and self.rpm is not None and self.burst > 1 and self.burst >= self.rpm:
            raise config_error(
                "has a burst that is not below its rpm", "lower burst: it is part of those 60 seconds"
            )
        return self


class RouteSettings(NamedTuple):
    """One way to run a model: a key, and the model's name at that key's upstream."""

    key: str
    upstream_model: str


class ModelSettings(HasTiers):
    """[[model]]: what a client may ask for, and the keys that serve it."""

    # The name in a request.
    name: Name
    # Other names by which a request may ask for it, such as ["deepseek-chat"]. Limits, prices and policies use `name`.
    aliases: Annotated[tuple[Name, ...], FromList] = ()
    # The [retry.NAME] policy of its tasks, unless a request names another.
    retry: str = "default"
    # Cache version. Change it to invalidate all cached answers of this model.
    version: str = ""
    # Which of its requests use the cache, see [cache] usage: "request", "always" or "off"; left out: as set there.
    cache: Literal["request", "always", "off"] | None = None
    # Total timeout of one call in seconds, in place of its upstream's; a retry policy's goes before it.
    timeout: Seconds | None = None
    # The most tokens that it answers where a request sets no limit: what budgets reserve for it. Left out: 4,096.
    max_output_tokens: Count | None = None

    def routes(self) -> tuple[tuple[RouteSettings, ...], ...]:
        """The tiers, references split at their first colon; a key alone serves the model by its own name."""
        return tuple(tuple(self._route(reference) for reference in tier.keys) for tier in self.all_tiers)

    def _route(self, reference: str) -> RouteSettings:
        key, _, upstream_model = reference.partition(":")
        return RouteSettings(key, upstream_model or self.name)


class RetrySettings(Section):
    """[retry.NAME]: what follows a failed attempt that counts. Refusals (429, 503) do not count."""

    # Maximum attempts; 1 disables retries.
    attempts: Annotated[int, Field(ge=1, le=100)] = 5
    # Seconds before the second attempt; doubled for each further one ...
    base: Positive = 1.0
    # ... up to this many seconds ...
    cap: Positive = 32.0
    # ... and never less than this: min = 4, cap = 10, jitter = 0 are the waits 4, 4, 4, 8, 10 s.
    min: Annotated[float, Field(ge=0)] = 0.0
    # "full": a random delay between `min` and the computed one. A fraction such as 0.1: the computed delay +-10 %.
    jitter: Literal["full"] | Annotated[float, Field(ge=0, le=1)] = "full"
    # Answers to ask for again although they were paid for, such as ["empty", "invalid_json", "truncated"]; also
    # "refused". They use up attempts; the last one is kept as it is. "empty" includes reasoning without an answer.
    retry_on: Annotated[tuple[Literal["empty", "invalid_json", "truncated", "refused"], ...], FromList] = ()
    # Calls refused with 429 or 503 after which the task fails; left out: it tries until its deadline.
    refusals: Count | None = None
    # Whether a task also waits by the figures above after each 429 or 503. If false, it goes to another key at once,
    # and only the quota that refused pauses (see [learning] pause).
    waits_when_refused: bool = False
    # Total timeout of one call in seconds; left out: its model's, else its upstream's.
    timeout: Seconds | None = None

    @model_validator(mode="after")
    def _cap_is_not_below_base(self) -> Self:
        if self.cap < self.base:
            raise config_error("has a cap below its base", "raise cap or lower base")
        if self.cap < self.min:
            raise config_error("has a cap below its min", "raise cap or lower min")
        return self


class CallbackSettings(Section):
    """[callbacks]: notifying clients' receivers."""

    # Networks (CIDR) to which callbacks may go although they are loopback, private or link-local, such as
    # ["10.1.0.0/16"]. Everything else of that kind is refused when the socket opens.
    allow_networks: Annotated[tuple[Network, ...], FromList] = ()
    # Ports that callbacks may use: single ports or ranges. Applies to allowed networks, too.
    ports: Annotated[tuple[Ports, ...], FromList] = ("80", "443", "8000-9000")
    # Total timeout of one delivery in seconds.
    timeout: Annotated[float, Field(gt=0, le=30)] = 15.0
    # Concurrent deliveries of one callback worker to one host. Deliveries to other hosts are not held up.
    per_host: Count = 10
    # Where clients reach the API, such as "https://penstock.example.com". A result too large for a callback is
    # replaced by a URL that begins so; left empty, by its path alone.
    public_url: str = ""
    # PEM file of certificate authorities to trust in addition to the system's, for internal receivers; "": none.
    ca_file: str = ""


class ApiSettings(Section):
    """[api]: what one API process takes."""

    # Maximum body size of POST /v1/tasks in bytes.
    max_task_body: Count = 10 * MIB
    # Maximum body size of POST /v1/batch in bytes.
    max_batch_body: Count = 512 * MIB
    # Tokens that an image, a recording or a file in a prompt counts in estimates, however large its data is.
    media_tokens: Count = 1000
    # Seconds that a request may keep us waiting for its bytes, plus one for each KiB it has sent: then 408. As long
    # is waited for somebody to take an answer.
    patience: Annotated[float, Field(ge=1, le=3600)] = 30.0
    # Seconds after which a proxy in front of the API ends a call that has had no response: chat calls that come through
    # one are answered before. 0: not known, which counts as 60 for clients that do not say how long they wait.
    proxy_timeout: Annotated[float, Field(ge=0, le=86400)] = 0.0
    # Whether a chat call whose body equals that of one still waiting or running, from the same API key, shares its task
    # and its bill. Requests may ask for it themselves: x-penstock-join: true.
    join_equal: bool = False
    # Long polls and chat calls that may wait at once; beyond it `?wait` answers at once, and chat calls are refused.
    waiters: Annotated[int, Field(ge=0, le=10000)] = 2048
    # Threads. A call that waits occupies one, so there must be more threads than waiters. Each takes about 0.1 MB.
    threads: Annotated[int, Field(ge=2, le=12000)] = 2112

    @model_validator(mode="after")
    def _waiters_leave_threads(self) -> Self:
        if self.threads <= self.waiters:
            raise config_error("has no more threads than waiters, each of which holds one", "raise threads")
        return self


class WorkerSettings(Section):
    """[worker]: what one worker process does."""

    # Concurrent upstream calls. Run more processes for more.
    concurrency: Annotated[int, Field(ge=1, le=10000)] = 1000
    # Grace period in seconds for running calls after SIGTERM; then their tasks return to their queues.
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    # Heartbeat interval in seconds. After three missed heartbeats the worker's tasks are given to others.
    beat_seconds: Annotated[float, Field(ge=1, le=10)] = 10.0


class MetricsSettings(Section):
    """[metrics]: figures for Prometheus."""

    # Number of clients with their own label value in one process; all others are counted as "other".
    clients: Annotated[int, Field(ge=0, le=10000)] = 50


class Settings(Section):
    """Everything, checked. The last six never stand in the file: they come from the environment."""

    # The model of requests that name none; left out: such requests are refused.
    default_model: str | None = None
    upstreams: Annotated[tuple[UpstreamSettings, ...], FromList] = Field(default=(), alias="upstream")
    keys: Annotated[tuple[KeySettings, ...], FromList] = Field(default=(), alias="key")
    quotas: Annotated[tuple[QuotaSettings, ...], FromList] = Field(default=(), alias="quota")
    models: Annotated[tuple[ModelSettings, ...], FromList] = Field(default=(), alias="model")
    # [regions]: where clients are, in your words, for conditions of tiers: acme = "cn".
    regions: dict[str, str] = Field(default_factory=dict)
    # By name. "default" is always there.
    retry: dict[str, RetrySettings] = Field(default_factory=dict, validate_default=True)
    learning: LearningSettings = LearningSettings()
    breaker: BreakerSettings = BreakerSettings()
    health: HealthSettings = HealthSettings()
    pace: PaceSettings = PaceSettings()
    prices: Annotated[tuple[PriceSettings, ...], FromList] = Field(default=(), alias="price")
    calendars: Annotated[tuple[NamedCalendarSettings, ...], FromList] = Field(default=(), alias="calendar")
    cache: CacheSettings = CacheSettings()
    callbacks: CallbackSettings = CallbackSettings()
    api: ApiSettings = ApiSettings()
    worker: WorkerSettings = WorkerSettings()
    access: AccessSettings = AccessSettings()
    storage: StorageSettings = StorageSettings()
    metrics: MetricsSettings = MetricsSettings()
    alerts: AlertSettings = AlertSettings()

    # DATABASE_URL as SQLAlchemy takes it; None: `penstock up` uses SQLite in its data folder.
    database_url: str | None = Field(default=None, repr=False)
    # REDIS_URL; None: `penstock up` starts a server of its own.
    redis_url: str | None = Field(default=None, repr=False)
    # CACHE_URL, a Redis for cached answers, never the one above; None: the database keeps them.
    cache_url: str | None = Field(default=None, repr=False)
    # PENSTOCK_FLOWER_URL, where people reach Flower, for links into it; None: no links.
    flower_url: str | None = None
    # PENSTOCK_METRICS_ADDRESS, HOST:PORT at which a dispatcher or worker shows its figures; None: nowhere.
    metrics_address: str | None = None
    # PENSTOCK_ADMIN_KEY, which makes the first administrator; None: one is made and printed once.
    admin_key: SecretStr | None = None
    # The file all this was read from; None when there is none.
    path: Path | None = None

    @property
    def open_keys(self) -> tuple[str, ...]:
        """The keys that any worker may call by: all but those of upstreams bound to their region."""
        bound = {upstream.name for upstream in self.upstreams if upstream.bound}
        return tuple(key.name for key in self.keys if key.upstream not in bound)

    @property
    def longest_stale(self) -> float:
        """Seconds beyond its lifetime for which some model may still give a cached answer."""
        return max((m.degraded.stale_if_error for m in self.models if m.degraded is not None), default=0.0)

    @field_validator("retry")
    @classmethod
    def _has_a_default(cls, value: dict[str, RetrySettings]) -> dict[str, RetrySettings]:
        return {"default": RetrySettings(), **value}
