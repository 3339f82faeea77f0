"""When secrets are resolved again, and what stays when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.settings import ConfigError, Settings
from app.upstreams.call_upstream import UpstreamGenerations, Upstreams
from app.upstreams.domain.reply import Reply
from app.upstreams.held_secrets import AGAIN_SECONDS, HeldSecrets
from tests.attempts import a_claimed
from tests.upstreams.calls import MovableClock, may
from tests.upstreams.wire import Peer, WireServer, answer

LATER = 60.0


def settings(url: str, secret: str, team: str = "", timeout: float = 20) -> Settings:
    headers = {"X-Team": team} if team else {}
    upstream = {"name": "up", "base_url": f"{url}/v1", "headers": headers, "timeout": timeout}
    key = {"name": "k1", "upstream": "up", "secret": secret}
    return Settings.model_validate({"upstream": [upstream], "key": [key]})


class World:
    """A key before a server that writes down what calls carry."""

    def __init__(self, folder: Path, url: str) -> None:
        self.clock, self.file, self.team = MovableClock(), folder / "secret", folder / "team"
        self.file.write_text("secret-old-1")
        self.team.write_text("team-old-1")
        self.settings = settings(url, f"command:cat {self.file}", f"file:{self.team}")
        self.held = HeldSecrets(self.settings, {"k1"}, {}, self.clock)
        self.calls = UpstreamGenerations(self.upstreams(self.settings, self.held), self.held)

    def upstreams(self, settings: Settings, held: HeldSecrets) -> Upstreams:
        return Upstreams(
            settings,
            held.secrets,
            concurrency=2,
            clock=self.clock,
            headers=held.headers,
        )

    def call(self) -> Reply:
        reply = self.calls.call(a_claimed(), may)
        assert isinstance(reply, Reply), reply
        return reply


class Seen(WireServer):
    def __init__(self) -> None:
        self.carried: list[tuple[str, str]] = []
        super().__init__(self._all)

    def _all(self, peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            headers = request[1]
            self.carried.append((headers["authorization"].removeprefix("Bearer "), headers.get("x-team", "")))
            peer.send(answer(b'{"said": "secret-old-1 team-old-1"}'))


@pytest.fixture
def server() -> Any:
    with Seen() as seen:
        yield seen


def test_a_refused_key_is_resolved_before_its_next_call_at_most_every_few_seconds(
    tmp_path: Path, server: Seen
) -> None:
    world = World(tmp_path, server.url)
    world.file.write_text("secret-new-2")
    world.call()
    world.held.refused("k1")
    world.call()
    world.file.write_text("secret-new-3")
    world.held.refused("k1")
    world.call()
    world.clock.ahead += AGAIN_SECONDS
    world.call()
    carried = [secret for secret, _ in server.carried]
    assert carried == ["secret-old-1", "secret-new-2", "secret-new-2", "secret-new-3"]


def test_a_header_alone_that_was_rotated_is_taken_and_connections_go_on_being_counted(
    tmp_path: Path, server: Seen
) -> None:
    world = World(tmp_path, server.url)
    world.call()
    world.team.write_text("team-new-2")
    world.held.refresh()
    world.call()
    assert [team for _, team in server.carried] == ["team-old-1", "team-new-2"]
    assert world.calls.wire() == (2, 2)


def test_the_old_secrets_are_struck_out_of_answers_after_a_rotation(tmp_path: Path, server: Seen) -> None:
    world = World(tmp_path, server.url)
    world.file.write_text("secret-new-2")
    world.team.write_text("team-new-2")
    world.held.refresh()
    assert b"old" not in world.call().body


@pytest.mark.parametrize("broken", ["file", "team"])
def test_one_that_cannot_be_resolved_again_stays_and_that_is_said_without_it(
    tmp_path: Path, server: Seen, broken: str
) -> None:
    world = World(tmp_path, server.url)
    getattr(world, broken).unlink()
    with capture_logs() as logs:
        world.held.refresh()
    world.call()
    assert server.carried == [("secret-old-1", "team-old-1")]
    assert [line["event"] for line in logs] == ["a secret cannot be resolved again, the old one stays in use"]
    assert "old-1" not in str(logs)


def test_one_that_cannot_be_resolved_stays_under_another_configuration_that_means_the_same(
    tmp_path: Path, server: Seen
) -> None:
    world = World(tmp_path, server.url)
    world.file.unlink()
    same = settings(server.url, f"command:cat {world.file}", f"file:{world.team}", timeout=21)
    held = HeldSecrets(same, {"k1"}, {}, world.clock, before=world.held)
    world.calls.renew(world.upstreams(same, held), held)
    world.call()
    assert server.carried == [("secret-old-1", "team-old-1")]
    other = settings(server.url, f"file:{world.file}", f"file:{world.team}")
    with pytest.raises(ConfigError):
        HeldSecrets(other, {"k1"}, {}, world.clock, before=world.held)


def test_nothing_shows_what_is_held(tmp_path: Path, server: Seen) -> None:
    world = World(tmp_path, server.url)
    assert "old-1" not in f"{vars(world.held)!r}"
