"""How commands are written to Redis."""

import pytest
from redis.connection import PythonRespSerializer
from redis.exceptions import DataError

from app.platform.redis_scripts import connect

CLIENT = connect("redis://127.0.0.1:1/0", timeout=1)  # reaches for nothing until it is used
COMMANDS = (
    ("PING",),
    ("CONFIG GET", "maxmemory"),
    (b"SCRIPT LOAD", "return 1"),
    ("SET", "schlüssel", 1.5, 7, b"\x00\r\n", bytearray(b"ab"), memoryview(b"cd"), ""),
    ("EVALSHA", "0" * 40, 0, *(b"m" * 7000, "text" * 2000) * 3),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_written_as_the_library_would_but_in_one_piece(command: tuple[object, ...]) -> None:
    connection = CLIENT.connection_pool.make_connection()
    theirs = PythonRespSerializer(6000, CLIENT.get_encoder().encode)
    (written,) = connection.pack_command(*command)
    assert written == b"".join(theirs.pack(*command))


@pytest.mark.parametrize("part", [True, None, ["a"]])
def test_what_is_neither_text_nor_number_is_refused(part: object) -> None:
    connection = CLIENT.connection_pool.make_connection()
    with pytest.raises(DataError):
        connection.pack_command("SET", "a", part)
