"""Judges the way to an upstream and what its API says of keys, models and limits. Times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from statistics import median
from typing import Any

from app.diagnosis.domain.finding import Finding, fail, milliseconds, ok, warn
from app.pacing.domain.ratelimit_headers import used_up_in
from app.upstreams.domain.reply import FetchedPage

SLOW_LOOKUP, SLOW_CONNECT, SLOW_HANDSHAKE = 0.5, 0.5, 1.5
TOLERABLE_LOSS = 0.04  # 2 of 50; more is felt as failed attempts
OFF_CLOCK, WRONG_CLOCK = 2.0, 60.0  # a Date header has whole seconds; signatures are refused at 300
_DAY = 86_400.0
_CERTIFICATE_DAYS = 14
# Words in issuers of certificates that devices make up on the spot to read along.
_READERS_ALONG = (
    "zscaler", "netskope", "blue coat", "bluecoat", "fortinet", "fortigate", "palo alto", "sophos", "mitmproxy",
    "charles proxy", "squid", "barracuda", "forcepoint", "check point", "cisco umbrella", "kaspersky", "eset ssl",
    "sangfor", "burp", "fiddler",
)  # fmt: skip
_PROXY_HEADERS = ("via", "x-squid-error", "proxy-connection", "x-bluecoat-via", "proxy-agent")


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a name resolved to, asked several times."""

    host: str
    seconds: tuple[float, ...] = ()  # each asking; none when the host is an address itself
    addresses: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()  # addresses among them where no connection could be opened
    pinned: bool = False  # by this machine's hosts file
    error: str = ""


@dataclass(frozen=True, slots=True)
class Connects:
    """TCP connections opened one after the other."""

    tried: int
    seconds: tuple[float, ...]  # of those that stood
    error: str = ""  # the most frequent one


@dataclass(frozen=True, slots=True)
class Handshake:
    """One TLS handshake."""

    seconds: float = 0.0
    version: str = ""  # TLSv1.3
    issuer: str = ""
    ends_at: float = 0.0  # of the certificate, Unix seconds
    error: str = ""
    untrusted: bool = False  # the error is about the certificate


def judge_lookup(found: Lookup) -> Finding:
    """Whether the name resolves, quickly, and to where somebody listens."""
    name = "DNS"
    if found.error:
        return fail(
            name,
            f"{found.host} does not resolve: {found.error}",
            "Correct base_url, or this machine's resolver (/etc/resolv.conf); try: getent hosts "
            + found.host,
        )
    if not found.seconds:
        return ok(name, f"{found.host} is an address, nothing to resolve")
    said = f"{found.host}: {', '.join(found.addresses)} in {milliseconds(max(found.seconds))}"
    if found.dead and len(found.dead) < len(found.addresses):
        return warn(
            name,
            f"{said}; nobody answers at {', '.join(found.dead)}: a stale answer, or no way there",
            "Flush the resolver's cache, and look whether this machine has a route to those addresses.",
        )
    if found.pinned:
        return warn(
            name,
            f"{said}, pinned by the hosts file",
            "Remove it from /etc/hosts unless you mean it: a provider that moves would be lost.",
        )
    if max(found.seconds) > SLOW_LOOKUP:
        return warn(
            name, f"{said}: slow", "Use a resolver nearby, or a local cache (systemd-resolved, dnsmasq)."
        )
    return ok(name, said)


def judge_connects(found: Connects) -> Finding:
    """Loss and time of connections."""
    name = "TCP"
    lost = found.tried - len(found.seconds)
    if not found.seconds:
        return fail(
            name,
            f"none of {found.tried} connections stood: {found.error or 'no answer'}",
            "Open the way out (firewall, route, port), or correct base_url.",
        )
    spread = f"median {milliseconds(median(found.seconds))}, slowest {milliseconds(max(found.seconds))}"
    if lost:
        said = f"{lost} of {found.tried} connections lost ({found.error or 'no answer'}); {spread}"
        hint = (
            "Look for loss on the way: mtr, ping; a firewall that limits new connections; a full NAT table."
        )
        return (fail if lost > TOLERABLE_LOSS * found.tried else warn)(name, said, hint)
    said = f"{found.tried} of {found.tried} connections stood; {spread}"
    if median(found.seconds) > SLOW_CONNECT:
        return warn(name, said, "The way is long: run nearer to the provider, or name a nearer endpoint.")
    return ok(name, said)


def judge_handshake(found: Handshake, now: float) -> Finding:
    """TLS version, time, and how long the certificate lasts."""
    name = "TLS"
    if found.untrusted:
        return fail(
            name,
            f"the certificate is not to be trusted: {found.error}",
            "Correct base_url; with a certificate authority of your own, name its file as ca_file of this "
            "[[upstream]]. Anything else may be somebody who reads along.",
        )
    if found.error:
        return fail(
            name,
            f"no TLS: {found.error}",
            "Correct base_url (https, port), or lower min_tls if the provider speaks no newer one.",
        )
    left = (found.ends_at - now) / _DAY
    said = f"{found.version} in {milliseconds(found.seconds)}, by {found.issuer or 'unknown'}, {left:.0f} days left"
    if left < _CERTIFICATE_DAYS:
        return warn(
            name, said, "The provider's certificate ends soon: ask the provider, or look at your proxy."
        )
    if found.seconds > SLOW_HANDSHAKE:
        return warn(name, said, "Slow: run nearer to the provider, or look for a proxy on the way.")
    return ok(name, said)


def date_skew(date: str | None, asked_at: float, answered_at: float) -> float | None:
    """Seconds by which our clock is ahead of the Date header's; None when it says nothing.

    The header has whole seconds, cut off, and was written at some instant between asking and answer.
    """
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError):
        return None
    early, late = asked_at - (theirs + 1.0), answered_at - theirs
    if early <= 0 <= late:
        return 0.0
    return early if early > 0 else late


def judge_skew(skew: float | None, whose: str) -> Finding:
    """Our clock against somebody else's."""
    name = "clock"
    if skew is None:
        return ok(name, f"{whose} tells no time")
    if abs(skew) <= OFF_CLOCK:
        return ok(name, f"agrees with {whose}")
    ahead = "ahead of" if skew > 0 else "behind"
    hint = "Set this machine's clock by NTP (timedatectl set-ntp true), or look at the other's."
    judge = fail if abs(skew) > WRONG_CLOCK else warn
    return judge(name, f"this machine is {abs(skew):.1f} s {ahead} {whose}", hint)


def judge_proxy(headers: Mapping[str, str], issuer: str, variables: Sequence[str]) -> Finding:
    """Whether somebody stands between. `headers` in lower case, `variables`: proxy variables that are set."""
    name = "proxy"
    reader = next((word for word in _READERS_ALONG if word in issuer.lower()), None)
    if reader:
        return warn(
            name,
            f"TLS is opened on the way: the certificate is by {issuer}",
            "Prompts and keys can be read there. Ask for an exception for this host, unless you mean it.",
        )
    seen = [f"{word}: {headers[word]}" for word in _PROXY_HEADERS if headers.get(word)]
    if seen:
        return warn(
            name,
            f"the answer came through a proxy ({'; '.join(seen)[:120]})",
            "Look whether it holds back or cuts long answers; Penstock needs none.",
        )
    if variables:
        return warn(
            name,
            f"{', '.join(variables)} set, and not used: Penstock connects directly",
            "If only the proxy reaches the provider, name it as proxy of this [[upstream]]; else unset them.",
        )
    return ok(name, "none in the way")


REQUEST_IDS = ("x-request-id", "request-id", "x-ds-trace-id", "x-trace-id")


_MOST_NAMES = 8


def judge_key(page: FetchedPage, key: str) -> Finding | None:
    """What keeps a key from being used at all; None when nothing does."""
    if page.status in (401, 403):
        return fail(
            "key",
            f"refused with {page.status}",
            f'Put a valid key where [[key]] "{key}" has its secret; the provider lists them in its console.',
        )
    if page.status == 0:
        return fail("key", f"cannot be tried: {page.error}", "Fix the connection to the provider first.")
    if page.status >= 500:
        return warn(
            "key", f"the provider answers {page.status}", "Try again later; its status page may know more."
        )
    return None


def judge_models(page: FetchedPage, wanted: Sequence[str]) -> Finding:
    """Whether the upstream offers the models that are configured for a key."""
    name = "/models"
    if page.status != 200:
        return ok(name, f"not offered ({page.status}): model names cannot be checked")
    offered = _model_ids(page.body)
    if not offered:
        return warn(name, "the list of models is empty or unreadable", "Look at base_url: is it the API's?")
    missing = [model for model in wanted if model not in offered]
    if missing:
        return fail(
            name,
            f"unknown there: {', '.join(missing)}",
            f"Correct the name in tiers (key:model). {_hint(missing, offered)}",
        )
    return ok(
        name, f"{len(offered)} models in {milliseconds(page.seconds)}; has {', '.join(wanted) or 'all'}"
    )


def judge_balance(page: FetchedPage) -> Finding:
    """Whether the account can pay, where the provider tells (DeepSeek's GET /user/balance)."""
    name = "/user/balance"
    body = page.body if isinstance(page.body, dict) else {}
    if page.status != 200 or "is_available" not in body:
        return ok(name, f"not offered ({page.status or page.error})")
    amounts = [
        f"{info.get('total_balance')} {info.get('currency')}"
        for info in body.get("balance_infos") or ()
        if isinstance(info, dict)
    ]
    said = ", ".join(amounts) or "no amount told"
    if not body["is_available"]:
        return fail(name, f"used up: {said}", "Top the account up; its tasks wait until then.")
    return ok(name, said)


def judge_own_proxy(proxy: str, page: FetchedPage) -> Finding:
    """The proxy that an upstream is configured with: whether an answer comes through it."""
    name = "proxy"
    if page.status:
        return ok(name, f"through {proxy}, as configured")
    hint = "Look at proxy and proxy_auth of this [[upstream]], and whether the proxy lets its host through."
    return fail(name, f"nothing comes through {proxy}: {page.error}", hint)


def judge_headers(pages: Sequence[FetchedPage]) -> Finding:
    """Limits and request ids that the provider's headers show."""
    name = "headers"
    headers = {key: value for page in pages for key, value in page.headers.items()}
    limits = [
        f"{key}: {headers[key]}" for key in sorted(headers) if key.startswith(("x-ratelimit", "ratelimit"))
    ]
    ids = [f"{key}: {headers[key][:60]}" for key in REQUEST_IDS if headers.get(key)]
    shown = "; ".join([*limits[:_MOST_NAMES], *ids])
    without = [word for word, found in (("limits", limits), ("request id", ids)) if not found]
    tail = f"no {' and no '.join(without)} in headers here" if without else ""
    told = "; ".join(part for part in (shown, tail) if part)
    used_up = used_up_in(headers)
    if used_up:
        hint = "wait for its reset, lower the limits in [[quota]], or add a key of another account"
        return warn(name, f"nothing is left, says {' and '.join(used_up)}: {told}", hint)
    return ok(name, told)


def judge_status_page(page: FetchedPage) -> Finding:
    """A status page as Atlassian's Statuspage serves it at /api/v2/status.json."""
    name = "status page"
    status = page.body.get("status") if isinstance(page.body, dict) else None
    if page.status != 200 or not isinstance(status, dict):
        return warn(
            name,
            f"says nothing readable ({page.status or page.error})",
            "Correct status_page: the address that ends with /api/v2/status.json.",
        )
    indicator = str(status.get("indicator", "none"))
    said = str(status.get("description") or indicator)[:120]
    hint = "Nothing to do here: tasks wait and go on. Move work to another tier if it lasts."
    if indicator in ("major", "critical"):
        return fail(name, said, hint)
    return ok(name, said) if indicator == "none" else warn(name, said, hint)


def _model_ids(body: Any) -> list[str]:
    data = body.get("data") if isinstance(body, dict) else body
    rows = data if isinstance(data, list) else []
    return [str(row["id"]) for row in rows if isinstance(row, dict) and row.get("id")]


def _hint(missing: Sequence[str], offered: Sequence[str]) -> str:
    near = [match for name in missing for match in get_close_matches(name, offered, 2)]
    if near:
        return f"Did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"It has: {', '.join(offered[:_MOST_NAMES])}{' ...' if len(offered) > _MOST_NAMES else ''}"
