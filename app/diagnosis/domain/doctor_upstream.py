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
    """What a name resolved to, in several lookups."""

    host: str
    seconds: tuple[float, ...] = ()  # of each lookup; empty when the host is an address
    addresses: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()  # addresses that refused a connection
    pinned: bool = False  # by this machine's hosts file
    error: str = ""


@dataclass(frozen=True, slots=True)
class Connects:
    """A series of TCP connections."""

    tried: int
    seconds: tuple[float, ...]  # of those that were established
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
    """Whether the name resolves quickly to addresses that accept connections."""
    name = "DNS"
    if found.error:
        return fail(
            name,
            f"{found.host} does not resolve: {found.error}",
            "Correct base_url or this machine's resolver (/etc/resolv.conf); check with: getent hosts "
            + found.host,
        )
    if not found.seconds:
        return ok(name, f"{found.host} is an address: nothing to resolve")
    said = f"{found.host}: {', '.join(found.addresses)} in {milliseconds(max(found.seconds))}"
    if found.dead and len(found.dead) < len(found.addresses):
        return warn(
            name,
            f"{said}; no answer from {', '.join(found.dead)}: a stale DNS answer, or no route",
            "Flush the resolver's cache, and check that this machine has a route to those addresses.",
        )
    if found.pinned:
        return warn(
            name,
            f"{said}, pinned by the hosts file",
            "Remove it from /etc/hosts unless intended: it breaks when the provider changes addresses.",
        )
    if max(found.seconds) > SLOW_LOOKUP:
        return warn(
            name, f"{said}: slow", "Use a resolver nearby, or a local cache (systemd-resolved, dnsmasq)."
        )
    return ok(name, said)


def judge_connects(found: Connects) -> Finding:
    """Loss and duration of connections."""
    name = "TCP"
    lost = found.tried - len(found.seconds)
    if not found.seconds:
        return fail(
            name,
            f"none of {found.tried} connections succeeded: {found.error or 'no answer'}",
            "Allow outgoing connections (firewall, route, port), or correct base_url.",
        )
    spread = f"median {milliseconds(median(found.seconds))}, slowest {milliseconds(max(found.seconds))}"
    if lost:
        said = f"{lost} of {found.tried} connections failed ({found.error or 'no answer'}); {spread}"
        hint = (
            "Look for packet loss (mtr, ping), a firewall that limits new connections, or a full NAT table."
        )
        return (fail if lost > TOLERABLE_LOSS * found.tried else warn)(name, said, hint)
    said = f"{found.tried} of {found.tried} connections succeeded; {spread}"
    if median(found.seconds) > SLOW_CONNECT:
        return warn(
            name, said, "The network path is slow: run closer to the provider, or use a closer endpoint."
        )
    return ok(name, said)


def judge_handshake(found: Handshake, now: float) -> Finding:
    """TLS version, duration and the certificate's remaining days."""
    name = "TLS"
    if found.untrusted:
        return fail(
            name,
            f"the certificate is not trusted: {found.error}",
            "Correct base_url. For a private certificate authority, set ca_file of this [[upstream]]. Otherwise "
            "somebody may be intercepting the connection.",
        )
    if found.error:
        return fail(
            name,
            f"TLS failed: {found.error}",
            "Correct base_url (https, port), or lower min_tls if the provider supports no newer version.",
        )
    left = (found.ends_at - now) / _DAY
    said = f"{found.version} in {milliseconds(found.seconds)}, issuer {found.issuer or 'unknown'}, {left:.0f} days left"
    if left < _CERTIFICATE_DAYS:
        return warn(name, said, "The certificate expires soon: contact the provider, or check your proxy.")
    if found.seconds > SLOW_HANDSHAKE:
        return warn(name, said, "Slow: run closer to the provider, or look for a proxy in between.")
    return ok(name, said)


def date_skew(date: str | None, asked_at: float, answered_at: float) -> float | None:
    """Seconds by which our clock is ahead of the Date header's; None when it cannot be parsed.

    The header has whole seconds, rounded down, and was written between request and response.
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
    """This machine's clock against another."""
    name = "clock"
    if skew is None:
        return ok(name, f"{whose} gives no time")
    if abs(skew) <= OFF_CLOCK:
        return ok(name, f"agrees with {whose}")
    ahead = "ahead of" if skew > 0 else "behind"
    hint = "Set this machine's clock by NTP (timedatectl set-ntp true), or check the other clock."
    judge = fail if abs(skew) > WRONG_CLOCK else warn
    return judge(name, f"this machine is {abs(skew):.1f} s {ahead} {whose}", hint)


def judge_proxy(headers: Mapping[str, str], issuer: str, variables: Sequence[str]) -> Finding:
    """Whether a proxy is in between. `headers` in lower case; `variables`: proxy variables that are set."""
    name = "proxy"
    reader = next((word for word in _READERS_ALONG if word in issuer.lower()), None)
    if reader:
        return warn(
            name,
            f"TLS is intercepted: the certificate is issued by {issuer}",
            "The interceptor can read prompts and keys. Ask for an exception for this host, unless intended.",
        )
    seen = [f"{word}: {headers[word]}" for word in _PROXY_HEADERS if headers.get(word)]
    if seen:
        return warn(
            name,
            f"the answer came through a proxy ({'; '.join(seen)[:120]})",
            "Check that it does not buffer or cut long answers. Penstock needs no proxy.",
        )
    if variables:
        return warn(
            name,
            f"{', '.join(variables)} set, but not used: Penstock connects directly",
            "If only the proxy reaches the provider, set it as proxy of this [[upstream]]; otherwise unset them.",
        )
    return ok(name, "none")


REQUEST_IDS = ("x-request-id", "request-id", "x-ds-trace-id", "x-trace-id")


_MOST_NAMES = 8


def judge_key(page: FetchedPage, key: str) -> Finding | None:
    """What prevents the use of a key; None when nothing does."""
    if page.status in (401, 403):
        return fail(
            "key",
            f"refused with {page.status}",
            f'Set a valid secret for [[key]] "{key}"; the provider\'s console lists its keys.',
        )
    if page.status == 0:
        return fail("key", f"could not be tested: {page.error}", "Fix the connection to the provider first.")
    if page.status >= 500:
        return warn(
            "key", f"the provider answered {page.status}", "Try again later; its status page may say more."
        )
    return None


def judge_models(page: FetchedPage, wanted: Sequence[str]) -> Finding:
    """Whether the upstream offers the models configured for a key."""
    name = "/models"
    if page.status != 200:
        return ok(name, f"not offered ({page.status}): model names cannot be checked")
    offered = _model_ids(page.body)
    if not offered:
        return warn(
            name, "the list of models is empty or unreadable", "Check that base_url is the API's address."
        )
    missing = [model for model in wanted if model not in offered]
    if missing:
        return fail(
            name,
            f"not offered: {', '.join(missing)}",
            f"Correct the name in tiers (key:model). {_hint(missing, offered)}",
        )
    return ok(
        name, f"{len(offered)} models in {milliseconds(page.seconds)}; has {', '.join(wanted) or 'all'}"
    )


def judge_balance(page: FetchedPage) -> Finding:
    """Whether the account has balance, where the provider reports it (DeepSeek's GET /user/balance)."""
    name = "/user/balance"
    body = page.body if isinstance(page.body, dict) else {}
    if page.status != 200 or "is_available" not in body:
        return ok(name, f"not offered ({page.status or page.error})")
    amounts = [
        f"{info.get('total_balance')} {info.get('currency')}"
        for info in body.get("balance_infos") or ()
        if isinstance(info, dict)
    ]
    said = ", ".join(amounts) or "no amount given"
    if not body["is_available"]:
        return fail(name, f"used up: {said}", "Top up the account; its tasks wait until then.")
    return ok(name, said)


def judge_own_proxy(proxy: str, page: FetchedPage) -> Finding:
    """Whether the upstream answers through its configured proxy."""
    name = "proxy"
    if page.status:
        return ok(name, f"through {proxy}, as configured")
    hint = "Check proxy and proxy_auth of this [[upstream]], and whether the proxy allows its host."
    return fail(name, f"no answer through {proxy}: {page.error}", hint)


def judge_headers(pages: Sequence[FetchedPage]) -> Finding:
    """Limits and request ids in the provider's headers."""
    name = "headers"
    headers = {key: value for page in pages for key, value in page.headers.items()}
    limits = [
        f"{key}: {headers[key]}" for key in sorted(headers) if key.startswith(("x-ratelimit", "ratelimit"))
    ]
    ids = [f"{key}: {headers[key][:60]}" for key in REQUEST_IDS if headers.get(key)]
    shown = "; ".join([*limits[:_MOST_NAMES], *ids])
    without = [word for word, found in (("limits", limits), ("request id", ids)) if not found]
    tail = f"no {' and no '.join(without)} in these headers" if without else ""
    told = "; ".join(part for part in (shown, tail) if part)
    used_up = used_up_in(headers)
    if used_up:
        hint = "Wait for its reset, lower the limits in [[quota]], or add a key of another account."
        return warn(name, f"used up according to {' and '.join(used_up)}: {told}", hint)
    return ok(name, told)


def judge_status_page(page: FetchedPage) -> Finding:
    """A status page as Atlassian's Statuspage serves it at /api/v2/status.json."""
    name = "status page"
    status = page.body.get("status") if isinstance(page.body, dict) else None
    if page.status != 200 or not isinstance(status, dict):
        return warn(
            name,
            f"unreadable ({page.status or page.error})",
            "Correct status_page: its address ends with /api/v2/status.json.",
        )
    indicator = str(status.get("indicator", "none"))
    said = str(status.get("description") or indicator)[:120]
    hint = "Nothing to do: tasks wait and continue. If it lasts, add a tier at another provider."
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
