"""A Redis that is full answers, and refuses: that counts as unreachable, for scripts as for commands."""

from collections.abc import Callable

import pytest

from app.platform.domain.errors import RedisUnreachable
from app.platform.redis_scripts import Scripts, connect
from tests.servers import RedisServer


def test_a_full_redis_counts_as_unreachable(make_redis: Callable[..., RedisServer]) -> None:
    scripts = Scripts(connect(make_redis().url, timeout=60))
    scripts.run("report", "worker_1", "{}")
    scripts.command("CONFIG", "SET", "maxmemory", "1kb")
    with pytest.raises(RedisUnreachable):
        scripts.run("report", "worker_1", "{}")
    with pytest.raises(RedisUnreachable):
        scripts.command("SET", "a", "b")
