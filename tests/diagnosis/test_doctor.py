"""What `penstock doctor` makes of figures, and how its checks stand side by side."""

import threading
from typing import Any

import pytest

from app.diagnosis.domain.doctor_service import (
    DatabaseFigures,
    GateFigures,
    Machine,
    RedisFigures,
    judge_callback_workers,
    judge_cpu,
    judge_database,
    judge_disk,
    judge_dispatcher,
    judge_files,
    judge_memory,
    judge_page,
    judge_redis,
    judge_workers,
)
from app.diagnosis.domain.doctor_upstream import (
    Connects,
    Handshake,
    Lookup,
    date_skew,
    judge_balance,
    judge_connects,
    judge_handshake,
    judge_headers,
    judge_key,
    judge_lookup,
    judge_models,
    judge_proxy,
    judge_skew,
    judge_status_page,
)
from app.diagnosis.domain.finding import Finding, Level, ok, warn, worst
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
    return worst(findings)


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
        (None, Level.OK),
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
    ("headers", "issuer", "variables", "level"),
    [
        ({"server": "nginx"}, "DigiCert Inc", (), Level.OK),
        ({"via": "1.1 squid"}, "", (), Level.WARN),
        ({}, "Zscaler Inc. Intermediate", (), Level.WARN),
        ({}, "DigiCert Inc", ("HTTPS_PROXY",), Level.WARN),
    ],
)
def test_proxies(headers: dict[str, str], issuer: str, variables: tuple[str, ...], level: Level) -> None:
    assert _level(judge_proxy(headers, issuer, variables)) is level


def test_a_model_that_is_not_offered_names_the_nearest() -> None:
    page = FetchedPage(200, body={"data": [{"id": "deepseek-flash"}, {"id": "deepseek-v4-pro"}]})
    assert _level(judge_models(page, ["deepseek-flash"])) is Level.OK
    found = judge_models(page, ["deepseek-flahs"])
    assert _level(found) is Level.FAIL
    assert "deepseek-flash" in found.hint
    assert _level(judge_models(FetchedPage(404), ["x"])) is Level.OK
    for odd in (None, [], {"data": 3}, {"data": [1, None, {}]}, "x"):
        assert _level(judge_models(FetchedPage(200, body=odd), ["x"])) is Level.WARN


@pytest.mark.parametrize(
    ("status", "level"),
    [(401, Level.FAIL), (403, Level.FAIL), (0, Level.FAIL), (503, Level.WARN), (200, None)],
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
    for odd in (
        FetchedPage(404),
        FetchedPage(200, body=[1]),
        FetchedPage(200, body={"is_available": True, "balance_infos": [3]}),
    ):
        assert _level(judge_balance(odd)) is Level.OK


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
    assert _level(judge_workers(GateFigures(True, 1, 0.5, 0, 0), 1)) is Level.FAIL
    assert _level(judge_callback_workers(["callbacks@h"])) is Level.OK
    assert _level(judge_callback_workers([])) is Level.WARN
    assert _level(judge_callback_workers(None)) is Level.WARN
    assert _level(judge_page("Flower", "http://h", 200, "", "start it")) is Level.OK
    assert _level(judge_page("Flower", "http://h", 0, "refused", "start it")) is Level.WARN


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
