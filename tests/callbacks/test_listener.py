"""The receiver for trying out: verifies, remembers, prints."""

import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import urllib3
from standardwebhooks.webhooks import Webhook

from app.cli.listen import Listener
from tests.callbacks.world import SECRET, STRANGER

BODY = json.dumps({"id": "evt_1", "object": "event", "type": "task.succeeded", "data": {"id": "task_1"}})


def _post(url: str, secret: str | None, body: str = BODY) -> int:
    headers = {}
    if secret is not None:
        now = datetime.now(UTC)
        headers = {
            "webhook-id": "evt_1",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign("evt_1", now, body),
        }
    return urllib3.request("POST", url, body=body, headers=headers, retries=False).status


def test_what_verifies_is_answered_200_and_remembered() -> None:
    with Listener([SECRET]) as listener:
        assert _post(listener.url + "hook", SECRET) == 200
        (receipt,) = listener.receipts
    assert (receipt.verified, receipt.id, receipt.path) == (True, "evt_1", "/hook")
    assert receipt.event["data"] == {"id": "task_1"}


@pytest.mark.parametrize("secret", [STRANGER, None])
def test_what_does_not_verify_is_answered_401_and_remembered_as_such(secret: str | None) -> None:
    with Listener([SECRET]) as listener:
        assert _post(listener.url, secret) == 401
        assert [receipt.verified for receipt in listener.receipts] == [False]
        assert listener.receipts[0].problem


@pytest.mark.parametrize("signature", ["v1", "nonsense", "v1,!!!", "v2,abcd v1"])
def test_a_malformed_signature_is_not_verified_and_breaks_nothing(signature: str) -> None:
    with Listener([SECRET]) as listener:
        headers = {
            "webhook-id": "evt_1",
            "webhook-timestamp": str(int(datetime.now(UTC).timestamp())),
            "webhook-signature": signature,
        }
        answer = urllib3.request("POST", listener.url, body=BODY, headers=headers, retries=False)
        assert answer.status == 401


def test_either_of_two_secrets_verifies() -> None:
    with Listener([STRANGER, SECRET]) as listener:
        assert [_post(listener.url, SECRET), _post(listener.url, STRANGER)] == [200, 200]


def test_without_a_secret_everything_is_taken_unchecked() -> None:
    with Listener(status=503) as listener:
        assert _post(listener.url, None, body="no json") == 503
        assert listener.receipts[0].verified is None
        assert listener.receipts[0].event == {}


def test_the_status_may_depend_on_what_came() -> None:
    with Listener([SECRET], status=lambda receipt: 500 if receipt.path == "/bad" else 204) as listener:
        assert [_post(listener.url + "bad", SECRET), _post(listener.url, SECRET)] == [500, 204]
        assert listener.wait_for(lambda receipts: len(receipts) == 2, 60)


def test_what_is_cut_off_in_its_body_is_no_callback() -> None:
    with Listener([SECRET]) as listener:
        port = int(listener.url.rsplit(":", 1)[1].strip("/"))
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sender:
            sender.sendall(b"POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\ncut")
            sender.shutdown(socket.SHUT_WR)
            assert sender.recv(100) == b""
        assert list(listener.receipts) == []


def test_a_faulty_secret_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="whsec_"):
        Listener(["whsec_"])


def test_the_command_prints_one_json_line_an_event_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "app.cli", "listen", "--port", "0", "--json", "--secret", SECRET]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stderr.readline().split()[-1]
        _post(url, SECRET)
        line = json.loads(process.stdout.readline())
        assert (line["id"], line["verified"]) == ("evt_1", True)
        assert line["event"]["type"] == "task.succeeded"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.communicate()


def test_the_command_shows_people_what_came_and_what_is_wrong() -> None:
    command = [sys.executable, "-m", "app.cli", "listen", "--port", "0", "--secret", SECRET]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[-1]
        hostile = json.dumps({"type": "[red]task.failed[/red]", "data": {"id": "task_1"}})
        _post(url, SECRET, hostile)
        assert "[red]task.failed[/red] task_1 evt_1 verified -> 200" in process.stdout.readline()
        _post(url, STRANGER)
        line = process.stdout.readline()
        assert "NOT VERIFIED" in line
        assert line.rstrip().endswith("-> 401 (again)")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.communicate()
