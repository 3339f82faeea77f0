"""The leader's work for callbacks, each second: publish what is due, reclaim what was abandoned."""

from __future__ import annotations

from app.callbacks.deliver_callback import CLAIM_SECONDS
from app.callbacks.domain.callback import CallbackNotifier
from app.callbacks.store.callbacks import any_abandoned, due_hosts, revive, ring_due, unring
from app.platform.database import Database
from app.platform.ports import Clock

MOST_A_TICK = 1000  # callbacks published
HOSTS_A_TICK = 500  # hosts looked at; the next tick continues after them
RING_AGAIN_SECONDS = 30.0  # a message may be lost, or its claim may have failed
_ROUNDS = 3  # room that the first hosts left goes to those that have more


class CallbackFeeder:
    """Does a bounded amount of work each tick, however much is due. Called by the leader's thread alone."""

    def __init__(self, database: Database, notifier: CallbackNotifier, clock: Clock) -> None:
        self._database = database
        self._notifier = notifier
        self._clock = clock
        self._after = ""

    def tick(self) -> int:
        """Do one round; returns how many callbacks were published.

        1. Claims older than 60 s count as abandoned: their callbacks are due again.
        2. Find hosts with something due: new ones, then the next in order.
        3. Publish as many as the queue has room for, an equal share for each host.

        Raises DatabaseUnreachable.
        """
        now = self._clock.now()
        self._revive(now)
        room = min(MOST_A_TICK, self._notifier.room())
        if room <= 0:
            return 0
        hosts = self._hosts(now)
        published = 0
        for _ in range(_ROUNDS):
            if not hosts or published >= room:
                break
            count, hosts = self._ring(hosts[: room - published], now, room - published)
            published += count
        return published

    def _revive(self, now: float) -> None:
        before = now - CLAIM_SECONDS
        if self._database.read(lambda conn: any_abandoned(conn, before, now)):
            self._database.write(lambda conn: revive(conn, before, now))

    def _hosts(self, now: float) -> list[str]:
        """Hosts with something due, this tick's part of them."""
        due, last = self._database.read(lambda conn: due_hosts(conn, now, self._after, HOSTS_A_TICK))
        self._after = last or ""
        return due

    def _ring(self, hosts: list[str], now: float, room: int) -> tuple[int, list[str]]:
        """Publish up to an equal share of each; returns how many, and the hosts that may have more."""
        each = max(1, room // len(hosts))
        again_at = now + RING_AGAIN_SECONDS
        claimed = self._database.write(lambda conn: ring_due(conn, hosts, now, each, again_at))
        unpublished = self._notifier.notify(list(claimed))
        if unpublished:
            self._database.write(lambda conn: unring(conn, unpublished, now))
            return len(claimed) - len(unpublished), []
        places = list(claimed.values())
        return len(claimed), [host for place, host in enumerate(hosts) if places.count(place) == each]
