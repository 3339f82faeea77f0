"""The chaos receiver: what it counts as delivered and as wrongly signed, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import urllib3
from standardwebhooks.webhooks import Webhook

from tests.chaos.receiver import Receiver

SECRET = "whsec_" + "c2VjcmV0" * 4
BODY = b'{"data":{"id":"task_1"}}'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(SECRET)
    yield made
    made.down()


def _headers(secret: str = SECRET) -> dict[str, str]:
    at = datetime.now(tz=UTC)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", at, BODY.decode()),
    }


def test_a_signed_callback_is_told_and_a_wrongly_signed_one_is_not(receiver: Receiver) -> None:
    with urllib3.PoolManager() as pool:
        wrong = pool.request("POST", receiver.url, body=BODY, headers=_headers("whsec_" + "b3RoZXI=" * 4))
        assert (wrong.status, len(receiver.unverified), dict(receiver.told)) == (401, 1, {})
        right = pool.request("POST", receiver.url, body=BODY, headers=_headers())
    assert (right.status, len(receiver.unverified), dict(receiver.told)) == (200, 1, {"task_1": {"msg_1"}})


def test_a_callback_cut_off_by_its_senders_death_is_neither(receiver: Receiver) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in _headers().items())
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=30) as sender:
        sender.sendall(
            f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n{head}\r\n".encode() + BODY[:5]
        )
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(100) == b""  # hung up on without an answer
    assert (receiver.unverified, dict(receiver.told)) == ([], {})
