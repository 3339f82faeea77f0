"""What the leader does for callbacks each second: nothing due stays silent, nothing claimed stays lost."""

from __future__ import annotations

from app.callbacks.deliver_callback import CLAIM_SECONDS
from app.callbacks.ports import CallbackNotifier
from app.callbacks.store.callbacks import any_abandoned, due_hosts, revive, ring_due, unring
from app.platform.database import Database
from app.platform.ports import Clock

MOST_A_TICK = 1000  # callbacks rung
HOSTS_A_TICK = 500  # hosts looked at; the next tick goes on behind them
RING_AGAIN_SECONDS = 30.0  # a message may be lost, or have met a claim that failed
_ROUNDS = 3  # what the first hosts left of a tick's room goes to those that have more


class CallbackFeeder:
    """Bounded work a tick, whatever waits."""

    def __init__(self, database: Database, bell: CallbackNotifier, clock: Clock) -> None:
        self._database = database
        self._bell = bell
        self._clock = clock
        self._after = ""

    def tick(self) -> int:
        """Do one round; gives back how many callbacks were rung.

        1. Claims older than 60 s are abandoned: their callbacks are due again.
        2. See which hosts have something due: those that are new, and the next in turn.
        3. Ring as many as the queue has room for, each host as many as any other.

        Raises DatabaseUnreachable.
        """
        now = self._clock.now()
        self._revive(now)
        room = min(MOST_A_TICK, self._bell.room())
        if room <= 0:
            return 0
        hosts = self._hosts(now)
        rung = 0
        for _ in range(_ROUNDS):
            if not hosts or rung >= room:
                break
            ids, hosts = self._ring(hosts[: room - rung], now, room - rung)
            rung += ids
        return rung

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
        """Ring up to an equal share of each; gives back how many, and the hosts that may have more."""
        each = max(1, room // len(hosts))
        again_at = now + RING_AGAIN_SECONDS
        rung = self._database.write(lambda conn: ring_due(conn, hosts, now, each, again_at))
        silent = self._bell.ring(list(rung))
        if silent:
            self._database.write(lambda conn: unring(conn, silent, now))
            return len(rung) - len(silent), []
        places = list(rung.values())
        return len(rung), [host for place, host in enumerate(hosts) if places.count(place) == each]
