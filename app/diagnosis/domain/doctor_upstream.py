"""Judges the way to an upstream and what its API says of keys, models and limits. Times are in seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from itertools import pairwise
from statistics import median

from app.diagnosis.domain.finding import Finding, fail, milliseconds, not_measured, ok, warn
from app.pacing.domain.ratelimit_headers import used_up_in
from app.upstreams.domain.key_health import model_states
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


RESENT = (
    0.9  # seconds beyond the fastest: the first packet was lost, and sent again after a second (RFC 6298)
)


def judge_loss(found: Connects) -> Finding:
    """Packet loss, as far as connection attempts show it: those that failed, and those that took a second more."""
    name = "packet loss"
    if not found.seconds:
        return not_measured(name, "no connection succeeded", "Fix the connection first.")
    lost = found.tried - len(found.seconds)
    resent = sum(each - min(found.seconds) > RESENT for each in found.seconds)
    said = f"{lost + resent} of {found.tried} connection attempts ({(lost + resent) / found.tried:.0%})"
    if not lost + resent:
        return ok(name, f"{said} lost a packet")
    hint = "Check cables, Wi-Fi, NAT tables and rate limits of firewalls on the way; the hops below may show where."
    return warn(name, f"{said}: {lost} failed, {resent} were sent again", hint)


@dataclass(frozen=True, slots=True)
class Hop:
    """One router on the way. No address, no seconds: it did not answer."""

    number: int
    address: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class HopTrace:
    """The way to an address. `counted`: only the number of hops could be found."""

    tool: str = ""
    hops: tuple[Hop, ...] = ()
    counted: int | None = None
    error: str = ""


# Of traceroute, number, address and time; of tracepath with a colon behind the number, and no blank before "ms".
_HOP = re.compile(r"^\s*(\d+)[:?]*\s+(\S+)(?:\s+\(\S+\))?(?:\s+([\d.]+)\s*ms)?")


def read_hops(text: str) -> tuple[Hop, ...]:
    """What traceroute or tracepath print; where a hop has two lines, the last counts."""
    found: dict[int, Hop] = {}
    for line in text.splitlines():
        if (match := _HOP.match(line)) is None:
            continue
        number, address, took = match.groups()
        known = bool(re.fullmatch(r"[0-9a-fA-F.:]*[.:][0-9a-fA-F.:]*", address))
        seconds = float(took) / 1000 if took and known else None
        found[int(number)] = Hop(int(number), address if known else "", seconds)
    return tuple(found[number] for number in sorted(found))


def judge_hops(found: HopTrace, target: str) -> Finding:
    """The number of routers on the way, and where it takes longest."""
    name = "hops"
    if found.error:
        hint = "Install traceroute or tracepath (iputils-tracepath), or run doctor as root."
        return not_measured(name, found.error, hint)
    if found.counted is not None:
        return ok(name, f"{found.counted} to {target} ({found.tool})")
    seen = [hop for hop in found.hops if hop.address]
    if not seen:
        return not_measured(
            name, f"no router answers {found.tool}", "Routers may drop probes: ask the network's operator."
        )
    last = seen[-1]
    reached = "to" if last.address == target else "seen on the way to"
    return ok(name, f"{last.number} {reached} {target} ({found.tool}){_longest_step(seen)}")


def _longest_step(hops: Sequence[Hop]) -> str:
    timed = [(hop.address, hop.seconds) for hop in hops if hop.seconds is not None]
    steps = [(late - early, address) for (_, early), (address, late) in pairwise(timed)]
    if not steps:
        return ""
    longest, address = max(steps)
    return f"; longest step {milliseconds(max(0.0, longest))}, at {address}"


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
        return not_measured(name, f"no time from {whose}", "Check the connection to it first.")
    if abs(skew) <= OFF_CLOCK:
        return ok(name, f"agrees with {whose}")
    ahead = "ahead of" if skew > 0 else "behind"
    hint = "Set this machine's clock by NTP (timedatectl set-ntp true), or check the other clock."
    judge = fail if abs(skew) > WRONG_CLOCK else warn
    return judge(name, f"this machine is {abs(skew):.1f} s {ahead} {whose}", hint)


def judge_proxy(page: FetchedPage, issuer: str, variables: Sequence[str]) -> Finding:
    """Whether a proxy is in between. `variables`: proxy variables that are set."""
    name = "proxy"
    headers = page.headers
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
    if not page.status:
        return not_measured(name, f"no answer ({page.error})", "Fix the connection to the provider first.")
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
    if page.status == 402:
        return fail("key", "no balance (402)", "Top up the account; its tasks wait until then.")
    if page.status == 429:
        return warn(
            "key", "refused for now (429): a limit is used up", "Wait, or lower its limits in [[quota]]."
        )
    if page.status >= 500:
        return warn(
            "key", f"the provider answered {page.status}", "Try again later; its status page may say more."
        )
    return None


def judge_models(page: FetchedPage, wanted: Sequence[str]) -> Finding:
    """Whether the upstream offers the models configured for a key."""
    name = "/models"
    if page.status != 200:
        return not_measured(
            name,
            f"not offered ({page.status}), model names cannot be checked",
            "Send one prompt with this key: penstock keys test",
        )
    states = model_states(page.body)
    offered = list(states)
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
    resting = {model: state for model, state in states.items() if model in wanted and state}
    if resting:
        said = ", ".join(f"{model} ({state})" for model, state in resting.items())
        return warn(name, f"not available now: {said}", "Add a tier with another model or provider.")
    return ok(
        name, f"{len(offered)} models in {milliseconds(page.seconds)}; has {', '.join(wanted) or 'all'}"
    )


def judge_balance(page: FetchedPage) -> Finding:
    """Whether the account has balance, where the provider reports it (DeepSeek's GET /user/balance)."""
    name = "/user/balance"
    body = page.body if isinstance(page.body, dict) else {}
    if page.status != 200 or "is_available" not in body:
        reason = f"this provider does not report it ({page.status or page.error})"
        return not_measured(name, reason, "See the provider's console.")
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
    words = "; ".join(part for part in (shown, tail) if part)
    used_up = used_up_in(headers)
    if used_up:
        hint = "Wait for its reset, lower the limits in [[quota]], or add a key of another account."
        return warn(name, f"used up according to {' and '.join(used_up)}: {words}", hint)
    if not limits:
        return not_measured(name, words, "See its limits in the provider's console; set them in [[quota]].")
    return ok(name, words)


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


def judge_notices(page: FetchedPage) -> Finding:
    """Open incidents and maintenance of a Statuspage, from its /api/v2/summary.json."""
    name = "notices"
    body = page.body if isinstance(page.body, dict) else {}
    if page.status != 200 or not ("incidents" in body or "scheduled_maintenances" in body):
        reason = f"its status page has no summary.json ({page.status or page.error})"
        return not_measured(name, reason, "Read the provider's status page.")
    found = [*_titles(body.get("incidents")), *_titles(body.get("scheduled_maintenances"), "scheduled_for")]
    if not found:
        return ok(name, "no open incident, no maintenance announced")
    hint = "Nothing to do: tasks wait and continue. For long ones, add a tier at another provider."
    return warn(name, "; ".join(found[:_MOST_NAMES])[:400], hint)


def _titles(rows: object, at: str = "created_at") -> list[str]:
    listed = [row for row in (rows if isinstance(rows, list) else ()) if isinstance(row, dict)]
    open_ones = [row for row in listed if row.get("status") not in ("resolved", "postmortem", "completed")]
    return [f"{str(row.get('name'))[:100]} ({row.get('status')}, {row.get(at)})" for row in open_ones]


def _hint(missing: Sequence[str], offered: Sequence[str]) -> str:
    near = [match for name in missing for match in get_close_matches(name, offered, 2)]
    if near:
        return f"Did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"It has: {', '.join(offered[:_MOST_NAMES])}{' ...' if len(offered) > _MOST_NAMES else ''}"
