"""What an operator pauses is not released, and says so."""

from __future__ import annotations

import pytest

from app.pacing.domain.fairness import Shares
from app.pacing.domain.plan import NEVER, Plan, plan
from app.pacing.domain.why import Bound, binding_of, in_words
from app.settings.domain.routing import QuotaState, Topology
from app.tasks.domain.pauses import KINDS, Pauses, Suspension, Suspensions, subject_of
from tests.pacing.test_plan import NOW, ONE, clients_of, keys_of, route, snapshot, topology, waiting


def made(closures: Suspensions, on: Topology = ONE) -> Plan:
    lists = (waiting("alice", 3), waiting("bob", 3))
    return plan(snapshot(*lists, suspensions=closures), on, Shares())


@pytest.mark.parametrize("subject", ["everything", "model:m"])
def test_a_paused_model_releases_nothing_and_says_why(subject: str) -> None:
    found = made(Suspensions(Pauses.of([subject])))
    assert found.releases == ()
    assert found.wake_in == NEVER
    assert in_words(binding_of(found.waits["m"], {}, {}, NOW)) == (
        "paused by an operator: " + subject.replace(":", " ")
    )


def test_a_paused_client_leaves_the_others_alone() -> None:
    found = made(Suspensions(Pauses.of(["client:alice"])))
    assert clients_of(found) == {"bob": 3}
    assert "alice" not in in_words(binding_of(found.waits["m"], {}, {}, NOW))


def test_another_models_pause_holds_nothing() -> None:
    assert clients_of(made(Suspensions(Pauses.of(["model:other", "client:carol", "key:k9"])))) == {
        "alice": 3,
        "bob": 3,
    }


def test_a_paused_keys_load_moves_to_the_next_tier() -> None:
    tiers = topology((route("k1"),), (route("k2"),))
    found = made(Suspensions(Pauses.of(["key:k1"]), Pauses.of(["key:k1"]).keys), tiers)
    assert keys_of(found) == {"k2": 6}


@pytest.mark.parametrize(("by_operator", "bound"), [(True, Bound.PAUSED), (False, Bound.DISABLED)])
def test_with_its_only_key_shut_a_model_waits_and_says_so(by_operator: bool, bound: Bound) -> None:
    found = made(Suspensions(keys={"k1": Suspension("key k1 is out of use", by_operator)}))
    assert found.releases == ()
    binding = binding_of(found.waits["m"], {}, {}, NOW)
    assert (binding.bound, binding.subject) == (bound, "k1")
    assert in_words(binding) == "key k1 is out of use"


def test_what_opens_sooner_is_named_before_a_key_that_is_shut() -> None:
    tiers = topology((route("k1"),), (route("k2"),))
    quotas = {"key:k2:*": QuotaState(braked_until=NOW + 3)}
    closures = Suspensions(keys={"k1": Suspension("key k1 is out of use")})
    found = plan(snapshot(waiting("alice", 1), quotas=quotas, suspensions=closures), tiers, Shares())
    assert found.waits["m"].reason == "key:k2:*"
    assert found.wake_in == pytest.approx(3)


def test_a_subject_names_one_thing() -> None:
    assert subject_of("everything") == "everything"
    assert subject_of("model", "a:b") == "model:a:b"
    for wrong in [("everything", "x"), ("model", ""), ("planet", "x")]:
        with pytest.raises(ValueError, match="a pause is of"):
            subject_of(*wrong)  # type: ignore[arg-type]
    assert set(KINDS) == {"everything", "model", "client", "key"}
    assert Pauses.of(["model:a:b"]).in_words == ("model a:b",)
