"""What operators do with the dispatcher: pause, resume, resume a key, test a key.

It goes through the database, so it survives any restart; the leader reads it twice a second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from app.access.store.clients import get_client
from app.pacing.store.leader_state import add_pause, load_pauses, remove_pause
from app.platform.database import Database
from app.platform.domain.errors import NotFound
from app.platform.ports import Clock
from app.settings.follow_configuration import ask_secrets
from app.tasks.domain.pauses import subject_in_words, subject_of
from app.upstreams.domain.key_health import Condition, Held, KeyStatus, KeyTestResult, Probe, Probed
from app.upstreams.key_tests import UpstreamTests
from app.upstreams.store.health import load_health, save_health


class SteerDispatcher:
    """Pauses and key tests, for operators."""

    def __init__(
        self,
        database: Database,
        keys: Sequence[Held],
        models: Collection[str],
        tester: UpstreamTests,
        clock: Clock,
    ) -> None:
        self._database = database
        self._keys = {held.name: held for held in keys}
        self._models = models
        self._tester = tester
        self._clock = clock

    def pauses(self) -> Mapping[str, float]:
        """All pauses by subject, with the instant since when."""
        return self._database.read(load_pauses)

    def pause(self, subject: str) -> None:
        """Start nothing more of a subject. Raises NotFound when there is no such thing, DatabaseUnreachable."""
        self._check(subject)
        self._database.write(lambda conn: add_pause(conn, subject, self._clock.now()))

    def resume(self, subject: str) -> None:
        """End a pause. Raises NotFound when it is not paused, DatabaseUnreachable."""
        if not self._database.write(lambda conn: remove_pause(conn, subject)):
            raise NotFound(f"{subject_in_words(subject)[:80]} is not paused", code="not_paused")

    def resume_key(self, name: str) -> None:
        """Use a key again, whether it was paused or refused. Raises NotFound, DatabaseUnreachable."""
        held = self._held(name)
        self._ask_secrets()
        self._database.write(lambda conn: remove_pause(conn, subject_of("key", name)))
        self._reactivate(held, ("key", "account"))

    def test_key(self, name: str) -> Probed:
        """Ask the key's upstream for its models; a key that is proved to work is used again. Raises NotFound.

        Workers resolve their secrets again meanwhile: what is tested is what they will send.
        """
        held = self._held(name)
        self._ask_secrets()
        tested = self._tester.test(name, Probe.MODELS)
        if tested.finding is KeyTestResult.WORKS and tested.proves:
            self._reactivate(held, ("key",), tested)
        return tested

    def _ask_secrets(self) -> None:
        self._database.write(lambda conn: ask_secrets(conn, self._clock.now()))

    def _reactivate(self, held: Held, kinds: Collection[str], tested: Probed | None = None) -> None:
        """Mark them active in the database, where the leader sees it."""
        now = self._clock.now()
        subjects = {"key": f"key:{held.name}", "account": f"account:{held.account}"}
        kept = self._database.read(load_health)
        bad = {
            subject: KeyStatus(since=now, last=tested or kept[subject].last)
            for kind, subject in subjects.items()
            if kind in kinds and subject in kept and kept[subject].condition is not Condition.ACTIVE
        }
        if bad:
            self._database.write(lambda conn: save_health(conn, bad, now))

    def _held(self, name: str) -> Held:
        if name not in self._keys:
            raise NotFound(
                f"there is no key {name[:40]!r}: keys are named in penstock.toml",
                param="key",
                code="key_not_found",
            )
        return self._keys[name]

    def _check(self, subject: str) -> None:
        kind, _, name = subject.partition(":")
        if kind == "key":
            self._held(name)
        if kind == "model" and name not in self._models:
            raise NotFound(f"there is no model {name[:40]!r}", param="model", code="model_not_found")
        if kind == "client" and self._database.read(lambda conn: get_client(conn, name)) is None:
            raise NotFound(f"there is no client {name[:40]!r}", param="client", code="client_not_found")
