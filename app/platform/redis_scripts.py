"""Lua scripts in Redis: each file of a room's store/lua/ is one atomic step, the prelude is put in front of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.platform.domain.errors import RedisUnreachable

_APP = Path(__file__).parents[1]


def connect(url: str, *, timeout: float, connections: int = 64) -> redis.Redis:
    """Make a client whose calls end within about `timeout` seconds each and are never repeated by itself."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        socket_keepalive=True,
        health_check_interval=0,
        max_connections=connections,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        command_packer=_Packer(),
    )


class _Packer:
    """Writes each command in one piece.

    redis-py begins a new one after 6,000 bytes, and before and after anything longer: sixteen messages went out in ten
    system calls, each a moment in which other threads take the interpreter.
    """

    def pack(self, *command: Any) -> list[bytes]:
        """The command as Redis reads it. Raises redis.exceptions.DataError for what is neither text nor number."""
        name, *arguments = command
        words = name.split() if isinstance(name, str | bytes) else [name]  # such as "SCRIPT LOAD"
        parts = [part if type(part) is bytes else _encoded(part) for part in (*words, *arguments)]
        written = [b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]
        return [b"*%d\r\n%b" % (len(written), b"".join(written))]


def _encoded(part: Any) -> bytes:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(part)
    if isinstance(part, int | float) and not isinstance(part, bool):
        return repr(part).encode()
    raise redis.exceptions.DataError(f"neither text nor number: {type(part).__name__}")


@cache
def _files() -> dict[str, Path]:
    return {file.stem: file for file in _APP.glob("*/store/lua/*.lua")}


@cache
def _source(name: str) -> str:
    return "\n".join(_files()[file].read_text(encoding="utf-8") for file in ("prelude", name))


class Scripts:
    """Runs scripts by name. Raises RedisUnreachable for whatever keeps Redis from answering."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._scripts: dict[str, Any] = {}

    def run(self, name: str, *arguments: str | float | bytes) -> Any:
        """Run lua/`name`.lua with the arguments as ARGV."""
        script = self._script(name)
        return _translated(lambda: script(args=arguments))

    def run_at_ring(self, doorbell: str, seconds: float, name: str, *arguments: str | float | bytes) -> Any:
        """Run it when the wake-up list gets an element, after `seconds` at the latest.

        Both commands are sent together, so a process that is woken needs no second round trip.
        """
        script = self._script(name)

        def call() -> Any:
            pipe = self.client.pipeline(transaction=False)
            pipe.blpop(doorbell, max(0.001, round(seconds, 3)))
            pipe.evalsha(script.sha, 0, *arguments)
            woken, answer = pipe.execute(raise_on_error=False)
            if isinstance(
                woken, Exception
            ):  # such as a wake-up key that is not a list: ignoring it would make a busy loop
                raise woken
            if isinstance(answer, redis.exceptions.NoScriptError):
                return script(args=arguments)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return _translated(call)

    def _script(self, name: str) -> Any:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.client.register_script(_source(name))
        return script

    def command(self, *arguments: str | float | bytes) -> Any:
        """Run one plain command."""
        return _translated(lambda: self.client.execute_command(*arguments))  # type: ignore[no-untyped-call]


def _translated(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except redis.exceptions.ResponseError as error:
        # The server is there and cannot serve. Any other error in a script is ours: let it out.
        if isinstance(error, _REFUSING) or any(word in str(error) for word in _REFUSALS):
            raise RedisUnreachable(f"Redis refuses: {error}") from error
        raise
    except (redis.exceptions.RedisError, OSError) as error:
        raise RedisUnreachable(f"Redis does not answer: {type(error).__name__}") from error


# redis-py takes the word off the message of those that it knows by class.
_REFUSING = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
_REFUSALS = ("OOM", "MISCONF", "READONLY", "LOADING", "BUSY", "MASTERDOWN", "NOREPLICAS", "UNKILLABLE")
