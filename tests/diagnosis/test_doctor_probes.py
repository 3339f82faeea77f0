"""What `penstock doctor` measures: real sockets, a real Redis, both databases, the simulated upstream."""

import http.server
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.cli.doctor.upstream_checks import Way
from app.diagnosis import probe_service
from app.diagnosis.domain.doctor_upstream import judge_handshake
from app.diagnosis.domain.finding import Finding, Level, worst
from app.diagnosis.examine import Check, examine
from app.diagnosis.probe_service import (
    free_space,
    fsync_seconds,
    measure_machine,
    ntp_skew,
    read_firewall,
    run_tool,
)
from app.diagnosis.probe_upstream import connect_often, get, look_up, shake_hands, trace_hops
from app.platform.migrate import upgrade
from app.settings import UpstreamSettings
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.faults import Fault
from tests.servers import RedisServer

KEY = "sk-doctor-secret-1234567890"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Skewed(http.server.BaseHTTPRequestHandler):
    """A provider whose clock is two minutes behind, with limits in its headers and a squid before it."""

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "m"}], "status": {"indicator": "minor", "description": "slow"}})
        self.send_response_only(200)
        self.send_header("Date", formatdate(time.time() - 120, usegmt=True))
        self.send_header("Via", "1.1 squid")
        self.send_header("X-RateLimit-Limit-Requests", "600")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of such a provider."""
    server = _Server(("127.0.0.1", 0), _Skewed)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that is bound, so that nobody else gets it, and at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed, for localhost, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mitmproxy of ours")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=5))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form) + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def _way(port: int, scheme: str = "http") -> Way:
    return Way(UpstreamSettings(name="u", base_url=f"{scheme}://localhost:{port}/v1"))


def _by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_dead_port_loses_every_connection_and_says_so(dead_port: int) -> None:
    found = connect_often(["127.0.0.1"], dead_port)
    assert (found.tried, found.seconds) == (50, ())
    assert "refused" in found.error
    findings = _by_name(_way(dead_port).network())
    assert findings["TCP"].level is Level.FAIL
    assert get(f"http://127.0.0.1:{dead_port}/").error == "connection refused"


def test_a_name_is_resolved_its_dead_addresses_found_and_a_pin_told(tmp_path: Path) -> None:
    with serving() as port:
        found = look_up("localhost", port)
        assert "127.0.0.1" in found.addresses
        assert "127.0.0.1" not in found.dead
        assert len(found.seconds) == 3
        assert look_up("127.0.0.1", port).seconds == ()
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.1 elsewhere # localhost.localdomain\n127.0.0.1 pinned.invalid\n")
    assert not look_up("localhost", port, hosts=hosts).pinned
    assert look_up("surely.not.there.invalid", 443).error


def test_a_self_signed_certificate_fails_and_a_trusted_one_tells_its_end(certificate: Path) -> None:
    rules = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    rules.load_cert_chain(certificate)
    with serving(rules) as port:
        found = _by_name(_way(port, "https").network())
        assert found["TLS"].level is Level.FAIL
        assert "self-signed" in found["TLS"].message
        trusting = ssl.create_default_context(cafile=str(certificate))
        shaken = shake_hands("localhost", port, trusting)
        assert shaken.version in ("TLSv1.2", "TLSv1.3")
        assert shaken.issuer == "mitmproxy of ours"
        assert judge_handshake(shaken, time.time()).level is Level.WARN  # five days left
    with serving() as port:  # no TLS at all
        assert _by_name(_way(port, "https").network())["TLS"].level is Level.FAIL


def test_a_skewed_date_a_proxy_limits_and_a_status_page_are_seen() -> None:
    with serving() as port:
        way = _way(port)
        found = _by_name([*way.answer(), *way.key("k", KEY, ["m"])])
        assert found["clock"].level is Level.FAIL
        assert "ahead of" in found["clock"].message
        assert found["proxy"].level is Level.WARN
        assert "x-ratelimit-limit-requests: 600" in found["headers"].message
        named = way.upstream.model_copy(update={"status_page": f"http://localhost:{port}/api/v2/status.json"})
        assert Way(named).status_page()[0].level is Level.WARN
        assert KEY not in str(found)


def test_the_proxy_of_an_upstream_is_what_is_looked_at(dead_port: int) -> None:
    with serving() as port:  # it answers whatever it is asked for, as a proxy does that forwards
        through = UpstreamSettings(name="u", base_url="http://u.invalid/v1", proxy=f"http://127.0.0.1:{port}")
        assert worst(Way(through).network()) is Level.OK
        assert _by_name(Way(through).answer())["proxy"].level is Level.OK
    dead = through.model_copy(update={"proxy": f"http://127.0.0.1:{dead_port}"})
    assert _by_name(Way(dead).answer())["proxy"].level is Level.FAIL


def test_an_authority_file_that_holds_none_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    upstream = UpstreamSettings(name="u", base_url="https://127.0.0.1:1/v1", ca_file=str(tmp_path / "ca.pem"))
    [examined] = examine([Check("Upstream u", "answer", Way(upstream).answer)])
    assert "ca_file" in examined.findings[0].message


def test_the_simulated_upstream_tells_of_keys_models_and_balances() -> None:
    with SimulatorProcess(SimulatorConfig(keys={KEY: "acme"})) as upstream:
        way = Way(UpstreamSettings(name="u", base_url=upstream.base_url))
        assert worst(way.network()) is Level.OK
        assert worst(way.key("k", KEY, ["deepseek-flash"])) is Level.OK
        assert way.key("k", "sk-wrong", [])[0].level is Level.FAIL
        unknown = _by_name(way.key("k", KEY, ["deepseek-flasch"]))
        assert unknown["/models"].level is Level.FAIL
        upstream.set_faults(Fault("500", endpoint="models"))
        assert way.key("k", KEY, [])[0].level is Level.WARN
        root = Way(UpstreamSettings(name="u", base_url=upstream.base_url.removesuffix("/v1") + "/beta"))
        upstream.set_faults()
        assert root.pages.balance(KEY).status == 200


def test_a_frozen_redis_is_told_in_time(make_redis: Callable[..., RedisServer]) -> None:
    server = make_redis(appendonly=True)
    well = probe_service.measure_redis(server.url)
    assert well.error == ""
    assert well.appendonly is True
    assert abs(well.skew) < 1
    server.pause()
    began = time.monotonic()
    frozen = probe_service.measure_redis(server.url)
    server.resume()
    assert "no answer within" in frozen.error
    assert time.monotonic() - began < 60
    assert probe_service.measure_redis("redis://:hunter2secret@127.0.0.1:1/0").where == "127.0.0.1:1"


def test_a_database_is_measured_before_and_after_its_migrations(database_url: str, tmp_path: Path) -> None:
    before = probe_service.measure_database(database_url)
    assert not before.current
    upgrade(database_url)
    after = probe_service.measure_database(database_url)
    assert after.current
    assert after.error == ""
    assert len(after.seconds) == 10
    assert probe_service.measure_database(f"sqlite:///{tmp_path}/none.db").error
    assert "hunter2" not in str(probe_service.measure_database("mysql://u:hunter2@127.0.0.1/x"))
    assert probe_service.measure_database("postgresql://u:hunter2@127.0.0.1:1/x").error == "does not answer"


def test_this_machine_is_measured(tmp_path: Path) -> None:
    machine = measure_machine(0.1)
    assert 0 < machine.memory_free <= machine.memory
    assert machine.cpus >= 1
    assert machine.most_files >= machine.files > 0
    free, total = free_space(tmp_path / "not" / "there" / "yet")
    assert 0 < free <= total


def _program(folder: Path, text: str) -> str:
    """A program of this system that prints a text."""
    path = folder / "tool"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_hops_come_from_the_systems_tool_else_they_are_counted_by_connections(
    tmp_path: Path, dead_port: int
) -> None:
    tool = _program(tmp_path, "echo ' 1  192.0.2.1  1.5 ms'; echo ' 2  192.0.2.9  2.5 ms'")
    found = trace_hops("192.0.2.9", 443, tracers=[("not-installed-here",), (tool, "-n")])
    assert [(hop.number, hop.address) for hop in found.hops] == [(1, "192.0.2.1"), (2, "192.0.2.9")]
    mute = _program(tmp_path, "exit 1")
    assert trace_hops("127.0.0.1", dead_port, tracers=[(mute,)]).counted == 1
    assert trace_hops("127.0.0.1", dead_port, tracers=[]).counted == 1


def test_a_tool_that_hangs_is_ended_and_what_it_printed_is_kept(tmp_path: Path) -> None:
    assert run_tool([_program(tmp_path, "echo early; exec sleep 60")], 1.0) == (-1, "early\n")
    assert run_tool([str(tmp_path / "missing")], 1.0) == (-1, "")


def test_the_rules_of_a_firewall_are_read_where_this_user_may(tmp_path: Path) -> None:
    found = read_firewall([("not-installed-here",), (_program(tmp_path, "echo :OUTPUT DROP"),)])
    assert found.text == ":OUTPUT DROP\n"
    assert "does not show" in read_firewall([(_program(tmp_path, "exit 1"),)]).error
    assert "installed" in read_firewall([]).error


def test_small_writes_to_a_disk_are_timed_and_leave_nothing(tmp_path: Path) -> None:
    assert len(fsync_seconds(tmp_path)) == 10
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No such file"):
        fsync_seconds(tmp_path / "missing")


@contextmanager
def _ntp_server(answer: Callable[[float], bytes]) -> Iterator[int]:
    """The port of a server that answers one question."""
    with socket.socket(type=socket.SOCK_DGRAM) as plain:
        plain.bind(("127.0.0.1", 0))
        plain.settimeout(30)

        def serve() -> None:
            _, address = plain.recvfrom(512)
            plain.sendto(answer(time.time()), address)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield plain.getsockname()[1]
        thread.join(30)


def _ntp_answer(first: int, stratum: int, at: float) -> bytes:
    whole, part = divmod(at + 2_208_988_800, 1)
    stamp = struct.pack("!II", int(whole), int(part * 2**32))
    return bytes([first, stratum]) + bytes(30) + stamp + stamp


@pytest.mark.parametrize("ahead", [0.0, 90.0, -5.5])
def test_the_clock_is_compared_by_ntp(ahead: float) -> None:
    with _ntp_server(lambda now: _ntp_answer(0x24, 2, now - ahead)) as port:
        assert ntp_skew("127.0.0.1", port=port, seconds=30) == pytest.approx(ahead, abs=1)


@pytest.mark.parametrize(
    "answer",
    [b"", b"x" * 48, _ntp_answer(0x24, 0, 0.0), _ntp_answer(0x24, 16, 0.0), _ntp_answer(0x23, 2, 0.0)],
)
def test_what_is_no_time_of_an_ntp_server_is_refused(answer: bytes) -> None:
    with _ntp_server(lambda _now: answer) as port, pytest.raises(ValueError, match="not an answer"):
        ntp_skew("127.0.0.1", port=port, seconds=30)
