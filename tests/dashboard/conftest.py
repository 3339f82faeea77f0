"""The pages on each database, in this process; tests keep apart by bringing their own clients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection
from werkzeug.test import TestResponse

from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.migrate import upgrade
from app.reporting.domain.snapshot import PacingSnapshot
from tests.api.world import Client, Parts, World
from tests.servers import PostgresServer

T = TypeVar("T")


class BreakableDatabase(Database):
    """A database that can be out of reach for readers."""

    away = False

    def read(self, fn: Callable[[Connection], T]) -> T:
        if self.away:
            raise DatabaseUnreachable("gone")
        return super().read(fn)

    glance = read


class Gauge:
    """Redis as the test wants it; None: it does not answer."""

    sight: PacingSnapshot | None = None

    def look(self) -> PacingSnapshot:
        if self.sight is None:
            raise RedisUnreachable("gone")
        return self.sight


class Leader:
    """What the dispatcher told last, as the test wants it."""

    words: Mapping[str, Any] = MappingProxyType({})

    def said(self) -> Mapping[str, Any]:
        return {"dispatcher": self.words}


@dataclass
class SeenParts(Parts):
    """Parts with a view into Redis."""

    pacing_snapshots: Gauge = None  # type: ignore[assignment]
    wait_reasons: Leader = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.pacing_snapshots = Gauge()
        self.wait_reasons = Leader()


class Browser:
    """What a browser would do without scripts."""

    def __init__(self, http: FlaskClient) -> None:
        self.http = http

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.http.get(path, headers=headers)

    def token(self, path: str = "/login") -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        assert found, path
        return found[1]

    def sign_in(self, key: str, next_: str = "") -> TestResponse:
        return self.post("/login", self.token(), key=key, next=next_)

    def post(self, path: str, csrf: str, headers: dict[str, str] | None = None, **form: str) -> TestResponse:
        return self.http.post(path, data={"csrf": csrf, **form}, headers=headers)


class Pages(World):
    """The service and browsers that look at it."""

    parts: SeenParts

    def lose_database(self, away: bool) -> None:
        """Put it out of reach, or back."""
        assert isinstance(self.database, BreakableDatabase)
        self.database.away = away

    def browser(self, client: Client | None = None, key: str = "") -> Browser:
        """A browser, signed in for a client or with a key."""
        browser = Browser(self.app.test_client())
        if client or key:
            assert browser.sign_in(client.key if client else key).status_code == 303
        return browser


def _pages(url: str) -> Iterator[Pages]:
    upgrade(url)
    pages = Pages(SeenParts(BreakableDatabase(url), url))
    yield pages
    pages.app.close()
    pages.database.close()


@pytest.fixture(scope="session")
def sqlite_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder: Path = tmp_path_factory.mktemp("web")
    yield from _pages(f"sqlite:///{folder}/penstock.db")


@pytest.fixture(scope="session")
def postgresql_pages(postgres_server: PostgresServer) -> Iterator[Pages]:
    url = postgres_server.create_database()
    yield from _pages(url)
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def pages(request: pytest.FixtureRequest) -> Pages:
    found: Pages = request.getfixturevalue(f"{request.param}_pages")
    found.lose_database(False)
    found.parts.wait_reasons.words = {}
    found.publisher.reset()
    found.parts.clock.ahead += 60.0  # what was read for earlier tests is old by now
    found.parts.pacing_snapshots.sight = PacingSnapshot(
        term="t", beat=int(found.parts.clock.ahead), workers=1, slots=5
    )
    return found
