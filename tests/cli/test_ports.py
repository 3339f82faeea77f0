"""Which port is taken."""

import socket
from collections.abc import Iterator

import pytest

from app.cli import stack
from app.cli.failure import CommandFailure

HOST = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_that_was_asked_for_and_is_taken_is_an_error_that_names_the_option(taken: int) -> None:
    with pytest.raises(CommandFailure) as refused:
        stack.choose_port(HOST, taken, option="--port", explicit=True)
    assert str(taken) in refused.value.message
    assert "--port" in str(refused.value.hint)


def test_a_default_port_that_is_taken_gives_way_to_the_next_free_one(taken: int) -> None:
    found = stack.choose_port(HOST, taken, option="--port", explicit=False)
    assert taken < found < taken + stack.TRIES


def test_two_parts_never_get_the_same_port() -> None:
    free = stack.any_free_port(HOST)
    assert stack.choose_port(HOST, free, option="--port", explicit=False, taken=(free,)) != free
    with pytest.raises(CommandFailure):
        stack.choose_port(HOST, free, option="--port", explicit=True, taken=(free,))


def test_port_0_takes_any() -> None:
    assert stack.choose_port(HOST, 0, option="--port", explicit=True) > 0


def test_an_address_of_another_machine_is_said_to_be_one() -> None:
    with pytest.raises(CommandFailure, match=r"cannot listen on 192\.0\.2\.1"):
        stack.port_is_free("192.0.2.1", 8000)
