"""What `penstock doctor` makes of figures, and how its checks stand side by side."""

import threading
from typing import Any

import pytest

from app.cli.doctor.command import summary
from app.diagnosis.domain.doctor_service import (
    DatabaseFigures,
    FirewallRules,
    GateFigures,
    Machine,
    RedisFigures,
    judge_callback_workers,
    judge_cpu,
    judge_database,
    judge_disk,
    judge_disk_speed,
    judge_dispatcher,
    judge_files,
    judge_firewall,
    judge_firing,
    judge_memory,
    judge_page,
    judge_redis,
    judge_workers,
    outgoing_blocks,
)
from app.diagnosis.domain.doctor_upstream import (
    Connects,
    Handshake,
    HopTrace,
    Lookup,
    date_skew,
    judge_balance,
    judge_connects,
    judge_handshake,
    judge_headers,
    judge_hops,
    judge_key,
    judge_lookup,
    judge_loss,
    judge_models,
    judge_notices,
    judge_proxy,
    judge_skew,
    judge_status_page,
    read_hops,
)
from app.diagnosis.domain.finding import Finding, Level, not_measured, ok, warn, worst
from app.diagnosis.examine import Check, examine
from app.upstreams.domain.reply import FetchedPage

GIB = 1024**3
NOW = 1_700_000_000.0
WELL = Handshake(0.05, "TLSv1.3", "Example CA", NOW + 90 * 86400)


def _machine(**changed: Any) -> Machine:
    figures = {
        "cpus": 4, "cpu_used": 0.2, "load": 1.0, "memory": 16 * GIB, "memory_free": 8 * GIB,
        "files": 8192, "most_files": 8192,
    }  # fmt: skip
    return Machine(**{**figures, **changed})


def _redis(**changed: Any) -> RedisFigures:
    figures: dict[str, Any] = {
        "where": "h:6379", "seconds": (0.0002,), "version": "7.2.4", "policy": "noeviction", "appendonly": True,
        "used": 10, "most": 100,
    }  # fmt: skip
    return RedisFigures(**{**figures, **changed})


def _level(found: Finding | list[Finding]) -> Level:
    findings = found if isinstance(found, list) else [found]
    assert all(bool(finding.hint) == (finding.level is not Level.OK) for finding in findings)
    return worst(findings) if isinstance(found, list) else found.level


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (Lookup("127.0.0.1", addresses=("127.0.0.1",)), Level.OK),
        (Lookup("h", (0.01,), ("192.0.2.1",)), Level.OK),
        (Lookup("h", (0.9,), ("192.0.2.1",)), Level.WARN),
        (Lookup("h", (0.01,), ("192.0.2.1", "192.0.2.2"), dead=("192.0.2.2",)), Level.WARN),
        (Lookup("h", (0.01,), ("192.0.2.1",), dead=("192.0.2.1",)), Level.OK),  # TCP says it
        (Lookup("h", (0.01,), ("192.0.2.1",), pinned=True), Level.WARN),
        (Lookup("h", error="no such name"), Level.FAIL),
    ],
)
def test_names(found: Lookup, level: Level) -> None:
    assert _level(judge_lookup(found)) is level


@pytest.mark.parametrize(
    ("stood", "seconds", "level"),
    [
        (50, 0.02, Level.OK),
        (50, 0.6, Level.WARN),
        (48, 0.02, Level.WARN),
        (47, 0.02, Level.FAIL),
        (0, 0, Level.FAIL),
    ],
)
def test_connections_lost_and_slow(stood: int, seconds: float, level: Level) -> None:
    assert _level(judge_connects(Connects(50, (seconds,) * stood, "refused" if stood < 50 else ""))) is level


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (WELL, Level.OK),
        (Handshake(2.0, "TLSv1.3", "CA", NOW + 90 * 86400), Level.WARN),
        (Handshake(0.05, "TLSv1.2", "CA", NOW + 5 * 86400), Level.WARN),
        (Handshake(error="self-signed certificate", untrusted=True), Level.FAIL),
        (Handshake(error="unsupported protocol"), Level.FAIL),
    ],
)
def test_handshakes(found: Handshake, level: Level) -> None:
    assert _level(judge_handshake(found, NOW)) is level


def test_a_date_of_whole_seconds_is_no_skew_within_its_second() -> None:
    date = "Tue, 14 Nov 2023 22:13:20 GMT"  # NOW
    assert date_skew(date, NOW + 0.4, NOW + 0.6) == 0
    assert date_skew(date, NOW + 5.0, NOW + 5.2) == pytest.approx(4.0)
    assert date_skew(date, NOW - 5.2, NOW - 5.0) == pytest.approx(-5.0)
    assert date_skew(None, NOW, NOW) is None
    assert date_skew("yesterday", NOW, NOW) is None


@pytest.mark.parametrize(
    ("skew", "level"),
    [
        (None, Level.NOT_MEASURED),
        (0.0, Level.OK),
        (-1.9, Level.OK),
        (3.0, Level.WARN),
        (-59.0, Level.WARN),
        (61.0, Level.FAIL),
    ],
)
def test_clocks(skew: float | None, level: Level) -> None:
    assert _level(judge_skew(skew, "its Date header")) is level


@pytest.mark.parametrize(
    ("page", "issuer", "variables", "level"),
    [
        (FetchedPage(200, {"server": "nginx"}), "DigiCert Inc", (), Level.OK),
        (FetchedPage(200, {"via": "1.1 squid"}), "", (), Level.WARN),
        (FetchedPage(200), "Zscaler Inc. Intermediate", (), Level.WARN),
        (FetchedPage(200), "DigiCert Inc", ("HTTPS_PROXY",), Level.WARN),
        (FetchedPage(error="connection refused"), "", (), Level.NOT_MEASURED),
        (FetchedPage(error="connection refused"), "", ("HTTPS_PROXY",), Level.WARN),
    ],
)
def test_proxies(page: FetchedPage, issuer: str, variables: tuple[str, ...], level: Level) -> None:
    assert _level(judge_proxy(page, issuer, variables)) is level


def test_a_model_that_is_not_offered_names_the_nearest() -> None:
    page = FetchedPage(200, body={"data": [{"id": "deepseek-flash"}, {"id": "deepseek-v4-pro"}]})
    assert _level(judge_models(page, ["deepseek-flash"])) is Level.OK
    found = judge_models(page, ["deepseek-flahs"])
    assert _level(found) is Level.FAIL
    assert "deepseek-flash" in found.hint
    assert _level(judge_models(FetchedPage(404), ["x"])) is Level.NOT_MEASURED
    for odd in (None, [], {"data": 3}, {"data": [1, None, {}]}, "x"):
        assert _level(judge_models(FetchedPage(200, body=odd), ["x"])) is Level.WARN


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (401, Level.FAIL),
        (402, Level.FAIL),
        (403, Level.FAIL),
        (0, Level.FAIL),
        (429, Level.WARN),
        (503, Level.WARN),
        (200, None),
    ],
)
def test_keys(status: int, level: Level | None) -> None:
    found = judge_key(FetchedPage(status), "main")
    assert (found and _level(found)) is level


def test_balances() -> None:
    told: dict[str, Any] = {
        "is_available": True, "balance_infos": [{"currency": "USD", "total_balance": "3.50"}],
    }  # fmt: skip
    assert judge_balance(FetchedPage(200, body=told)) == ok("/user/balance", "3.50 USD")
    assert _level(judge_balance(FetchedPage(200, body={**told, "is_available": False}))) is Level.FAIL
    assert _level(judge_balance(FetchedPage(200, body={**told, "balance_infos": [3]}))) is Level.OK
    for odd in (FetchedPage(404), FetchedPage(200, body=[1]), FetchedPage(error="no answer in time")):
        assert _level(judge_balance(odd)) is Level.NOT_MEASURED


def test_headers_that_tell_limits_and_ids_are_shown() -> None:
    page = FetchedPage(200, {"x-ratelimit-limit-requests": "600", "x-request-id": "req-1", "date": "x"})
    shown = judge_headers([page, FetchedPage(404)]).message
    assert "x-ratelimit-limit-requests: 600" in shown
    assert "x-request-id: req-1" in shown
    assert "no limits and no request id" in judge_headers([FetchedPage(200)]).message


@pytest.mark.parametrize(
    ("headers", "level"),
    [
        ({"x-ratelimit-remaining": "0"}, Level.WARN),
        ({"x-ratelimit-remaining-requests": "0"}, Level.WARN),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-remaining-requests": "9"}, Level.WARN),
        ({"ratelimit-remaining": "0"}, Level.WARN),
        ({"ratelimit": '"default";r=0;t=30'}, Level.WARN),
        ({"x-ratelimit-remaining": "1"}, Level.OK),
        ({"x-ratelimit-remaining": "soon"}, Level.OK),
        ({"x-ratelimit-limit": "0"}, Level.OK),
        ({"x-request-id": "req-1"}, Level.NOT_MEASURED),
        ({}, Level.NOT_MEASURED),
        ({"ratelimit": '"default";r=5;t=30'}, Level.OK),
    ],
)
def test_a_quota_that_is_used_up_is_a_warning(headers: dict[str, str], level: Level) -> None:
    assert _level(judge_headers([FetchedPage(200, headers)])) is level


@pytest.mark.parametrize(
    ("indicator", "level"),
    [("none", Level.OK), ("minor", Level.WARN), ("major", Level.FAIL), ("critical", Level.FAIL)],
)
def test_status_pages(indicator: str, level: Level) -> None:
    body = {"status": {"indicator": indicator, "description": "as it is"}}
    assert _level(judge_status_page(FetchedPage(200, body=body))) is level
    assert _level(judge_status_page(FetchedPage(404))) is Level.WARN
    assert _level(judge_status_page(FetchedPage(200, body=["x"]))) is Level.WARN


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (judge_cpu(_machine()), Level.OK),
        (judge_cpu(_machine(cpu_used=0.95)), Level.WARN),
        (judge_memory(_machine()), Level.OK),
        (judge_memory(_machine(memory_free=GIB)), Level.WARN),
        (judge_memory(_machine(memory_free=GIB // 4)), Level.FAIL),
        (judge_files(_machine(), 1000), Level.OK),
        (judge_files(_machine(files=1024), 1000), Level.OK),  # it may raise that itself
        (judge_files(_machine(files=1024, most_files=4096), 1000), Level.WARN),
        (judge_files(_machine(files=1024, most_files=1024), 1000), Level.FAIL),
        (judge_disk("data", "/d", 50 * GIB, 100 * GIB), Level.OK),
        (judge_disk("data", "/d", GIB, 100 * GIB), Level.WARN),
        (judge_disk("data", "/d", 1000, 100 * GIB), Level.FAIL),
    ],
)
def test_the_machine(found: Finding, level: Level) -> None:
    assert _level(found) is level


@pytest.mark.parametrize(
    ("changed", "level"),
    [
        ({}, Level.OK),
        ({"error": "connection refused"}, Level.FAIL),
        ({"seconds": (0.02,)}, Level.WARN),
        ({"version": "5.0.1"}, Level.FAIL),
        ({"version": ""}, Level.OK),
        ({"policy": "allkeys-lru"}, Level.FAIL),
        ({"policy": "allkeys-lru", "most": 0}, Level.OK),
        ({"appendonly": False}, Level.WARN),
        ({"used": 70}, Level.WARN),
        ({"used": 95}, Level.FAIL),
        ({"skew": 10.0}, Level.WARN),
    ],
)
def test_redis(changed: dict[str, Any], level: Level) -> None:
    assert _level(judge_redis(_redis(**changed))) is level


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (DatabaseFigures("sqlite", (0.001,), "3.45.1", None, True), Level.OK),
        (DatabaseFigures("sqlite", (0.001,), "3.31.0", None, True), Level.FAIL),
        (DatabaseFigures("postgresql", (0.1,), "16.2", 0.1, True), Level.WARN),
        (DatabaseFigures("postgresql", (0.001,), "16.2", 0.1, False), Level.FAIL),
        (DatabaseFigures("postgresql", (0.001,), "16.2 (Debian)", 100.0, True), Level.FAIL),
        (DatabaseFigures("postgresql", error="does not answer"), Level.FAIL),
    ],
)
def test_databases(found: DatabaseFigures, level: Level) -> None:
    assert _level(judge_database(found)) is level


def test_processes() -> None:
    alive = GateFigures(leads=True, beats=2, watched=0.5, workers=2, slots=50)
    assert _level(judge_dispatcher(alive)) is Level.OK
    assert _level(judge_dispatcher(GateFigures(False, 0, 2.5, 0, 0))) is Level.FAIL
    assert _level(judge_dispatcher(GateFigures(True, 0, 2.5, 0, 0))) is Level.FAIL
    assert _level(judge_workers(alive, 2)) is Level.OK
    assert _level(judge_workers(alive, 1)) is Level.WARN
    assert "heartbeats in the database not read" in judge_workers(alive, None).message
    assert _level(judge_workers(GateFigures(True, 1, 0.5, 0, 0), 1)) is Level.FAIL
    assert _level(judge_callback_workers(["callbacks@h"])) is Level.OK
    assert _level(judge_callback_workers([])) is Level.WARN
    assert _level(judge_callback_workers(None)) is Level.NOT_MEASURED
    assert _level(judge_page("Flower", "http://h", 200, "", "start it")) is Level.OK
    assert _level(judge_page("Flower", "http://h", 0, "refused", "start it")) is Level.WARN


def test_what_a_server_does_not_tell_is_not_measured() -> None:
    levels = {each.name: each.level for each in judge_redis(_redis(version="", appendonly=None))}
    assert levels["version"] is Level.NOT_MEASURED
    assert levels["keeping"] is Level.NOT_MEASURED
    assert [each.level for each in judge_firing(None, "docs/runbook.md")] == [Level.NOT_MEASURED]


def test_what_is_not_measured_is_counted_apart_and_sets_no_exit_code() -> None:
    unknown = not_measured("clock", "no answer", "allow UDP 123")
    assert worst([unknown]) is Level.OK
    assert worst([unknown, warn("w", "m", "h")]) is Level.WARN
    assert summary([ok("a", "m"), ok("b", "m"), warn("w", "m", "h")]) == "2 passed, 1 warning, 0 failed"
    assert summary([unknown, ok("a", "m")]) == "1 passed, 0 warnings, 0 failed, 1 not measured"


@pytest.mark.parametrize(
    ("seconds", "level", "said"),
    [
        ((0.02,) * 50, Level.OK, "0 of 50"),
        ((0.02,) * 48, Level.WARN, "2 of 50 connection attempts (4%)"),
        ((0.02,) * 49 + (1.03,), Level.WARN, "1 of 50"),  # its first packet was lost, and sent again
        ((0.02,) * 46 + (3.1, 1.03), Level.WARN, "2 failed, 2 were sent again"),
        ((0.95,) * 50, Level.OK, "0 of 50"),  # far away is no loss
        ((), Level.NOT_MEASURED, "no connection succeeded"),
    ],
)
def test_packet_loss(seconds: tuple[float, ...], level: Level, said: str) -> None:
    found = judge_loss(Connects(50, seconds))
    assert _level(found) is level
    assert said in found.message


TRACEROUTE = """traceroute to 203.0.113.9 (203.0.113.9), 30 hops max, 60 byte packets
 1  192.168.1.1  0.512 ms
 2  *
 3  198.51.100.7  9.100 ms
 4  203.0.113.9  42.000 ms
"""
TRACEPATH = """ 1?: [LOCALHOST]                      pmtu 1500
 1:  192.168.1.1                                           0.512ms
 1:  192.168.1.1                                           0.600ms
 2:  no reply
 3:  198.51.100.7                                          9.100ms asymm  4
     Too many hops: pmtu 1500
     Resume: pmtu 1500
"""
BUSYBOX6 = """traceroute to 2001:db8::9 (2001:db8::9), 30 hops max, 72 byte packets
 1  2001:db8::1 (2001:db8::1)  1.000 ms
 2  2001:db8::9 (2001:db8::9)  3.500 ms
"""


@pytest.mark.parametrize(
    ("text", "target", "level", "said"),
    [
        (TRACEROUTE, "203.0.113.9", Level.OK, "4 to 203.0.113.9 (tool); longest step 33 ms, at 203.0.113.9"),
        (TRACEPATH, "203.0.113.9", Level.OK, "3 seen on the way to 203.0.113.9 (tool); longest step 8.5 ms"),
        (BUSYBOX6, "2001:db8::9", Level.OK, "2 to 2001:db8::9"),
        (" 1  *\n 2  *\n", "203.0.113.9", Level.NOT_MEASURED, "no router answers"),
    ],
)
def test_hops_are_read_from_what_the_systems_tools_print(
    text: str, target: str, level: Level, said: str
) -> None:
    found = judge_hops(HopTrace("tool", read_hops(text)), target)
    assert _level(found) is level
    assert said in found.message


def test_hops_that_could_only_be_counted_or_not_at_all() -> None:
    assert judge_hops(HopTrace("TCP", counted=12), "203.0.113.9").message == "12 to 203.0.113.9 (TCP)"
    none = judge_hops(HopTrace(error="no traceroute here"), "203.0.113.9")
    assert _level(none) is Level.NOT_MEASURED
    assert "no traceroute here" in none.message


@pytest.mark.parametrize(
    ("seconds", "level"),
    [((0.001, 0.001, 0.3), Level.OK), ((0.05, 0.06), Level.WARN), ((), Level.NOT_MEASURED)],
)
def test_the_speed_of_disks(seconds: tuple[float, ...], level: Level) -> None:
    assert _level(judge_disk_speed("data", seconds, "/d does not exist")) is level


NFT = """table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		tcp dport 22 accept
		drop
	}
	chain output {
		type filter hook output priority filter; policy POLICY;
		RULE
	}
}
"""


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ("", []),
        (NFT.replace("POLICY", "accept").replace("RULE", "accept"), []),
        (NFT.replace("POLICY", "accept").replace("RULE", "tcp dport 443 reject"), ["tcp dport 443 reject"]),
        (
            NFT.replace("POLICY", "drop").replace("RULE", "accept"),
            ["type filter hook output priority filter; policy drop;"],
        ),
        (":INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -j DROP\n", []),
        (":OUTPUT DROP [0:0]\n", [":OUTPUT DROP [0:0]"]),
        (
            "-P OUTPUT DROP\n-A OUTPUT -p tcp --dport 443 -j REJECT --reject-with x\n-A FORWARD -j DROP\n",
            ["-P OUTPUT DROP", "-A OUTPUT -p tcp --dport 443 -j REJECT --reject-with x"],
        ),
    ],
)
def test_only_rules_that_stop_outgoing_packets_are_told(text: str, stopped: list[str]) -> None:
    assert outgoing_blocks(text) == stopped
    found = judge_firewall(FirewallRules("nft", text), [443])
    assert _level(found) is (Level.WARN if stopped else Level.OK)


def test_a_firewall_that_may_not_be_read_is_not_measured() -> None:
    assert _level(judge_firewall(FirewallRules(error="not this user"), [443])) is Level.NOT_MEASURED


def test_open_incidents_and_maintenance_are_told() -> None:
    closed = {"name": "Old", "status": "resolved"}
    soon = {"name": "Upgrade", "status": "scheduled", "scheduled_for": "2026-12-01T02:00:00Z"}
    body = {"incidents": [closed], "scheduled_maintenances": [{**soon, "status": "completed"}]}
    assert _level(judge_notices(FetchedPage(200, body=body))) is Level.OK
    found = judge_notices(
        FetchedPage(
            200,
            body={
                "incidents": [{"name": "API errors", "status": "investigating"}],
                "scheduled_maintenances": [soon],
            },
        )
    )
    assert _level(found) is Level.WARN
    assert "API errors (investigating" in found.message
    assert "Upgrade (scheduled, 2026-12-01T02:00:00Z)" in found.message
    for odd in (FetchedPage(404), FetchedPage(200, body=[1]), FetchedPage(200, body={"page": 1})):
        assert _level(judge_notices(odd)) is Level.NOT_MEASURED


@pytest.mark.parametrize(
    ("state", "level"),
    [
        ("maintenance", Level.WARN),
        ("offline", Level.WARN),
        ("Active", Level.OK),
        (None, Level.OK),
        ({"value": "loaded"}, Level.OK),
    ],
)
def test_a_model_that_its_list_calls_unavailable_is_a_warning(state: object, level: Level) -> None:
    page = FetchedPage(
        200, body={"data": [{"id": "m", "status": state}, {"id": "other", "status": "maintenance"}]}
    )
    assert _level(judge_models(page, ["m"])) is level


def test_what_hangs_or_breaks_is_a_finding_and_keeps_nobody() -> None:
    never = threading.Event()
    came: list[str] = []

    def broken() -> list[Finding]:
        raise RuntimeError("sk-secret")

    def hangs() -> list[Finding]:
        never.wait(60)
        return []

    checks = [
        Check("a", "well", lambda: [ok("well", "yes")]),
        Check("b", "broken", broken),
        Check("c", "hangs", hangs),
        *(Check("d", str(n), lambda: [warn("w", "m", "hint")]) for n in range(20)),
    ]
    examined = examine(checks, came=lambda check: came.append(check.name), within=3)
    never.set()
    assert [each.check for each in examined] == checks
    levels = [worst(each.findings) for each in examined]
    assert levels == [Level.OK, Level.FAIL, Level.FAIL] + [Level.WARN] * 20
    assert "sk-secret" not in str(examined)
    assert set(came) == {check.name for check in checks} - {"hangs"}
