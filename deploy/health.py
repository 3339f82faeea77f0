"""Health checks for containers: `python deploy/health.py http URL` and `python deploy/health.py leader`.

Exits with 0 when all is well, else with 1 and one line that says what is not.
"""

import os
import sys
import time
import urllib.request

import redis

BEAT_SECONDS = 2.0  # a leader whose beat stands still for this long is replaced


def http(url: str) -> str | None:
    """None when `url` answers with a success within 3 s, else what is wrong."""
    try:
        with urllib.request.urlopen(url, timeout=3):  # noqa: S310  # the operator's own  # nosec B310
            return None
    except OSError as error:
        return f"{url}: {error}"


def leader(redis_url: str) -> str | None:
    """None when some dispatcher leads and its beat moves, else what is wrong."""
    try:
        with redis.Redis.from_url(redis_url, socket_timeout=3, socket_connect_timeout=3) as client:
            before = client.hget("penstock:gate", "beat")
            deadline = time.monotonic() + BEAT_SECONDS
            while time.monotonic() < deadline:
                time.sleep(0.2)
                if client.hget("penstock:gate", "beat") != before:
                    return None
    except redis.RedisError as error:
        return f"Redis: {type(error).__name__}"
    return "no dispatcher leads: the leader's beat does not move"


def main(arguments: list[str]) -> str | None:
    match arguments:
        case ["http", url]:
            return http(url)
        case ["leader"]:
            return leader(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
        case _:
            return __doc__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
