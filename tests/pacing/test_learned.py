"""What was learned is kept for the next leader."""

from app.dispatching.tick_handoff import PersistEstimates
from app.pacing.domain.limit_estimator import new_estimator
from app.pacing.domain.rate_controller import RateController
from app.platform.database import Database
from app.settings.domain.routing import Route, Topology

ROUTE = Route("k", "u", "a", "m")
TOPOLOGY = Topology({"m": ((ROUTE,),)})


class HandClock:
    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def test_estimates_are_stored_where_they_changed_and_restored(database: Database) -> None:
    clock, controller = HandClock(), RateController(TOPOLOGY)
    keeping = PersistEstimates(database, controller, clock)
    assert (keeping.keep(), keeping.keep()) == (1, 0)
    controller.estimators["account:a:m"] = new_estimator()
    controller.estimators["account:a:m"].latency = 3.0
    assert keeping.keep() == 1
    successor = RateController(TOPOLOGY)
    PersistEstimates(database, successor, clock).recall()
    assert successor.estimators["account:a:m"].latency == 3.0


def test_what_was_kept_of_a_quota_that_is_gone_is_passed_over(database: Database) -> None:
    clock = HandClock()
    PersistEstimates(database, RateController(TOPOLOGY), clock).keep()
    other = RateController(Topology({"n": ((Route("k2", "u", "b", "n"),),)}))
    PersistEstimates(database, other, clock).recall()
    assert set(other.estimators) == {"account:b:n"}
