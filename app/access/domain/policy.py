"""Attribute-based policies: who may do what with which model, when and from where. Deny overrides allow.

    {"effect": "allow", "principal": ["user:team_a"], "resource": ["api:deepseek-chat"],
     "condition": {"time": {"between": ["09:00", "18:00"]}, "ip": {"in": ["192.168.1.0/24"]}}}

A statement applies when its principal, resource, action and every condition match. An omitted field matches all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal
from zoneinfo import ZoneInfo

from app.platform.domain.url_rules import Address, parse_address

Effect = Literal["allow", "deny"]
PRINCIPALS = ("user", "client", "team", "key")
RESOURCES = ("api", "model", "upstream", "region")
_FIELDS = ("id", "effect", "principal", "resource", "action", "condition", "description")
_MOST = 1_000  # values of one list
_UNLIMITED = 2**63


@dataclass(frozen=True, slots=True)
class CallFacts:
    """The facts of one call. A call that runs no model has no `model`: resources in policies do not match it."""

    at: float  # Unix seconds
    action: str  # a scope, such as tasks:write
    client: str = ""
    team: str = ""
    user: str = ""
    key: str = ""  # the API key's id
    address: str | None = None  # None: unknown, so a condition on it holds for a deny alone
    model: str | None = None
    upstreams: frozenset[str] = frozenset()  # that may serve the model
    regions: frozenset[str] = frozenset()  # of those upstreams
    zones: frozenset[str] = frozenset()  # named networks that contain the address
    max_tokens: int | None = None  # None: not limited by the request


@dataclass(frozen=True, slots=True)
class Between:
    """Hours of the day; an end before the beginning is on the next day."""

    begin: time
    end: time
    zone: str

    def holds(self, at: float) -> bool:
        """Whether an instant is within; the end is exclusive."""
        tz = UTC if self.zone == "UTC" else ZoneInfo(self.zone)
        now = datetime.fromtimestamp(at, tz).time()
        if self.begin <= self.end:
            return self.begin <= now < self.end
        return now >= self.begin or now < self.end


@dataclass(frozen=True, slots=True)
class Conditions:
    """All must hold; None: no condition."""

    between: Between | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    not_networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    zones: frozenset[str] | None = None
    at_most: int | None = None  # max_tokens
    above: int | None = None


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """One statement."""

    id: str
    effect: Effect
    principal: tuple[str, ...] = ()  # empty: anybody
    resource: tuple[str, ...] = ()  # empty: anything
    action: tuple[str, ...] = ()  # empty: running models
    condition: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the call is allowed, and the deciding statement: its id, or "default"."""

    allowed: bool
    rule: str


def parse_policy(given: Any, name: str = "") -> AccessPolicy:
    """Read a statement; `name` is its id unless it has one. Raises ValueError that begins with the field."""
    if not isinstance(given, Mapping):
        raise ValueError("policy: must be an object")
    for key in given:
        if key not in _FIELDS:
            raise ValueError(f"{str(key)[:40]}: unknown field; a policy has {', '.join(_FIELDS)}")
    effect = given.get("effect")
    if effect not in ("allow", "deny"):
        raise ValueError("effect: must be allow or deny")
    return AccessPolicy(
        id=str(given.get("id") or name),
        effect=effect,
        principal=_matchers(given, "principal", PRINCIPALS),
        resource=_matchers(given, "resource", RESOURCES),
        action=tuple(_texts(given, "action")),
        condition=_conditions(given.get("condition", {})),
    )


def evaluate(policies: Iterable[AccessPolicy], facts: CallFacts, default: Effect = "allow") -> Decision:
    """Decide. A deny that applies wins; else an allow that applies; else the default.

    The default covers only running models: other calls depend on scopes, unless a statement denies them.
    If several upstreams or regions serve a model, a deny of one denies the model and an allow must name them all:
    which one will serve is not known beforehand.
    """
    allowed = None
    for policy in policies:
        if not _applies(policy, facts):
            continue
        if policy.effect == "deny":
            return Decision(False, policy.id)
        allowed = allowed or policy.id
    if allowed is not None:
        return Decision(True, allowed)
    return Decision(facts.model is None or default == "allow", "default")


def forbids_place(
    policies: Iterable[AccessPolicy], facts: CallFacts, default: Effect = "allow"
) -> str | None:
    """The statement by which a waiting task may not run at one place, though it was accepted; None: it may.

    `facts` hold the one upstream and region, the client and its team. Who asked, from where and when was decided at
    submission and is unknown by now: statements with conditions deny nothing here, and any allow that may have applied
    counts. Without statements about places the default forbids nothing.
    """
    placed = [policy for policy in policies if _may_concern(policy, facts)]
    for policy in placed:
        if policy.effect == "deny" and policy.condition == Conditions() and _is_at(policy, facts):
            return policy.id
    allows = [policy for policy in placed if policy.effect == "allow"]
    if default == "allow" or not any(names_places(policy) for policy in allows):
        return None
    return None if any(_is_about(policy, facts) for policy in allows) else "default"


def _may_concern(policy: AccessPolicy, facts: CallFacts) -> bool:
    """Whether it is about running models, and about this client as far as is known. A deny must name it surely."""
    if not _does(policy, facts):
        return False
    unknown = any(item.partition(":")[0] in ("user", "key") for item in policy.principal)
    return _is_one_of(policy, facts) or (unknown and policy.effect == "allow")


def names_places(policy: AccessPolicy) -> bool:
    """Whether it is about upstreams or regions."""
    return any(item.partition(":")[0] in ("upstream", "region") for item in policy.resource)


def _is_at(policy: AccessPolicy, facts: CallFacts) -> bool:
    return _places(policy, "upstream", facts.upstreams) or _places(policy, "region", facts.regions)


def _applies(policy: AccessPolicy, facts: CallFacts) -> bool:
    if not _does(policy, facts) or not _is_one_of(policy, facts):
        return False
    unknown = policy.effect == "deny"  # an address that nobody can judge gets past no deny
    return _is_about(policy, facts) and _holds(policy.condition, facts, unknown=unknown)


def _does(policy: AccessPolicy, facts: CallFacts) -> bool:
    if not policy.action:
        return facts.model is not None
    return any(fnmatchcase(facts.action, pattern) for pattern in policy.action)


def _is_one_of(policy: AccessPolicy, facts: CallFacts) -> bool:
    """`user:` also matches a client or a team, so that callers need not know which kind a name is."""
    names = {
        "user": (facts.client, facts.team),
        "client": (facts.client,),
        "team": (facts.team,),
        "key": (facts.key,),
    }
    found = any(_matches_any(item, names) or _names_user(item, policy, facts) for item in policy.principal)
    return found or not policy.principal


def _names_user(item: str, policy: AccessPolicy, facts: CallFacts) -> bool:
    """Whether this names the key's user. Users named by a team's administrator are `TEAM/NAME`.

    An allow must match the full name, by a pattern with `/`; a deny also matches the bare name.
    """
    kind, _, pattern = item.partition(":")
    _, slash, name = facts.user.partition("/")
    if kind != "user" or not facts.user:
        return False
    if slash and policy.effect == "allow":
        return pattern == "*" or ("/" in pattern and fnmatchcase(facts.user, pattern))
    return fnmatchcase(facts.user, pattern) or bool(slash and fnmatchcase(name, pattern))


def grants_by_name(policy: AccessPolicy, name: str) -> bool:
    """Whether a policy would allow something to a client because of its name, other than by a bare `*`."""
    named = {"user": (name,), "client": (name,)}
    picked = [item for item in policy.principal if item != "*" and item.partition(":")[2] != "*"]
    return policy.effect == "allow" and any(_matches_any(item, named) for item in picked)


def _is_about(policy: AccessPolicy, facts: CallFacts) -> bool:
    if not policy.resource:
        return True
    if facts.model is None:
        return False
    model = {"api": (facts.model,), "model": (facts.model,)}
    if any(_matches_any(item, model) for item in policy.resource):
        return True
    return _places(policy, "upstream", facts.upstreams) or _places(policy, "region", facts.regions)


def _places(policy: AccessPolicy, kind: str, actual: Collection[str]) -> bool:
    """A deny applies if it names one of the model's upstreams or regions, an allow if it names all."""
    patterns = [item.partition(":")[2] for item in policy.resource if item.startswith(f"{kind}:")]
    hits = [any(fnmatchcase(place, pattern) for pattern in patterns) for place in actual]
    return any(hits) if policy.effect == "deny" else bool(hits) and all(hits)


def _matches_any(item: str, names: Mapping[str, Sequence[str]]) -> bool:
    if item == "*":
        return True
    kind, _, pattern = item.partition(":")
    return any(name and fnmatchcase(name, pattern) for name in names.get(kind, ()))


def _holds(wanted: Conditions, facts: CallFacts, *, unknown: bool) -> bool:
    tokens = _UNLIMITED if facts.max_tokens is None else facts.max_tokens
    return (
        (wanted.between is None or wanted.between.holds(facts.at))
        and (wanted.networks is None or _within(facts.address, wanted.networks, unknown))
        and (wanted.not_networks is None or _outside(facts.address, wanted.not_networks, unknown))
        and (
            wanted.zones is None
            or bool(wanted.zones & facts.zones)
            or (unknown and _address(facts.address) is None)
        )
        and (wanted.at_most is None or tokens <= wanted.at_most)
        and (wanted.above is None or tokens > wanted.above)
    )


def _within(address: str | None, networks: Iterable[IPv4Network | IPv6Network], unknown: bool) -> bool:
    found = _address(address)
    return unknown if found is None else any(found in network for network in networks)


def _outside(address: str | None, networks: Iterable[IPv4Network | IPv6Network], unknown: bool) -> bool:
    found = _address(address)
    return unknown if found is None else not any(found in network for network in networks)


def _address(text: str | None) -> Address | None:
    try:
        return None if text is None else parse_address(text)
    except ValueError:
        return None


def _matchers(given: Mapping[str, Any], name: str, kinds: Sequence[str]) -> tuple[str, ...]:
    found = _texts(given, name)
    for item in found:
        kind, colon, rest = item.partition(":")
        if item != "*" and (kind not in kinds or not colon or not rest):
            raise ValueError(
                f"{name}: {item[:60]!r} must be *, or one of {', '.join(kinds)}, a colon and a name"
            )
    return tuple(found)


def _texts(given: Mapping[str, Any], name: str) -> list[str]:
    if name not in given:
        return []
    found = given[name]
    if isinstance(found, str):
        found = [found]
    if (
        not isinstance(found, list)
        or not 1 <= len(found) <= _MOST
        or not all(isinstance(i, str) for i in found)
    ):
        raise ValueError(f"{name}: must be a list of at least one text")
    return found


def _conditions(given: Any) -> Conditions:
    if not isinstance(given, Mapping):
        raise ValueError("condition: must be an object")
    values: dict[str, Any] = {}
    for name, tests in given.items():
        reader = _READERS.get(name)
        if reader is None:
            raise ValueError(
                f"condition.{str(name)[:40]}: unknown condition; choose from {', '.join(_READERS)}"
            )
        if not isinstance(tests, Mapping) or not tests:
            raise ValueError(f"condition.{name}: must be an object")
        values |= reader(tests)
    return Conditions(**values)


def _time(tests: Mapping[str, Any]) -> dict[str, Any]:
    _only("time", tests, "between", "zone")
    hours = tests.get("between")
    if not isinstance(hours, list) or len(hours) != 2 or not all(isinstance(hour, str) for hour in hours):
        raise ValueError('condition.time.between: must be two times, such as ["09:00", "18:00"]')
    zone = tests.get("zone", "UTC")
    try:
        begin, end = (_hour(hour) for hour in hours)
        if zone != "UTC":
            ZoneInfo(zone)
    except (ValueError, KeyError, TypeError, OSError):
        raise ValueError("condition.time: write times as 09:00 and a zone such as Asia/Shanghai") from None
    return {"between": Between(begin, end, zone)}


def _hour(text: str) -> time:
    return time.max if text == "24:00" else time.fromisoformat(text)


def _ip(tests: Mapping[str, Any]) -> dict[str, Any]:
    _only("ip", tests, "in", "not_in")
    names = {"in": "networks", "not_in": "not_networks"}
    return {names[test]: _networks(test, listed) for test, listed in tests.items()}


def _networks(test: str, listed: Any) -> tuple[IPv4Network | IPv6Network, ...]:
    if not isinstance(listed, list) or not 1 <= len(listed) <= _MOST:
        raise ValueError(f"condition.ip.{test}: must be a list of networks")
    try:
        return tuple(ip_network(str(item)) for item in listed)
    except ValueError as error:
        raise ValueError(f"condition.ip.{test}: {error}") from None


def _zone(tests: Mapping[str, Any]) -> dict[str, Any]:
    _only("zone", tests, "in")
    return {"zones": frozenset(_texts(tests, "in"))}


def _max_tokens(tests: Mapping[str, Any]) -> dict[str, Any]:
    _only("max_tokens", tests, "at_most", "above")
    for test, value in tests.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"condition.max_tokens.{test}: must be a whole number")
    return dict(tests)


def _only(name: str, tests: Mapping[str, Any], *known: str) -> None:
    for test in tests:
        if test not in known:
            raise ValueError(
                f"condition.{name}.{str(test)[:40]}: unknown test; choose from {', '.join(known)}"
            )


_READERS = {"time": _time, "ip": _ip, "zone": _zone, "max_tokens": _max_tokens}
