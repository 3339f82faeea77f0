"""The ledger adds up, whatever happens."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from simulator.answers import AnswerUsage
from simulator.call_log import CallLog
from simulator.ledger import Ending, Ledger
from simulator.limits import SimulatedCaller

CALLERS = [
    SimulatedCaller("sk-alice", "acme", "deepseek-flash"),
    SimulatedCaller("sk-alice", "acme", "deepseek-v4-pro"),
    SimulatedCaller("sk-bob", "acme", "deepseek-flash"),
    SimulatedCaller("sk-stranger", "other", "deepseek-flash"),
]
happenings = st.lists(
    st.tuples(st.sampled_from(["admit", "refuse", "reject", "end"]), st.sampled_from(CALLERS)), max_size=80
)


def ended(outcome: str = "ok") -> Ending:
    return Ending(outcome, outcome == "ok", False, AnswerUsage(100, 64, 20, 5), 1_000_000)


def told(events: list[tuple[str, SimulatedCaller]]) -> dict[str, Any]:
    ledger, running = Ledger(), []
    for number, (what, caller) in enumerate(events):
        if what == "admit":
            ledger.admit(number / 10, caller, 120)
            running.append(caller)
        elif what == "refuse":
            ledger.refuse(number / 10, caller, "rpm")
        elif what == "reject":
            ledger.reject(number / 10, "bad_request", caller.key, caller.account)
        elif running:
            ledger.end(running.pop(0), ended("ok" if number % 2 else "503"))
    return ledger.as_json()


@given(happenings)
def test_every_tally_adds_up(events: list[tuple[str, SimulatedCaller]]) -> None:
    stats = told(events)
    groups = [stats["keys"], stats["accounts"], stats["models"]]
    for tally in [stats["totals"], *(tally for group in groups for tally in group.values())]:
        refused, rejected = sum(tally["refused"].values()), sum(tally["rejected"].values())
        assert tally["received"] == tally["admitted"] + refused + rejected
        assert tally["admitted"] == tally["in_flight"] + sum(tally["outcomes"].values())
        assert tally["succeeded"] == tally["outcomes"].get("ok", 0)


@given(happenings)
def test_the_parts_add_up_to_the_totals(events: list[tuple[str, SimulatedCaller]]) -> None:
    stats = told(events)
    figures = ("received", "admitted", "in_flight", "prompt_tokens", "cached_tokens", "bill_pico_usd")
    for group in ("keys", "accounts"):
        for figure in figures:
            assert sum(tally[figure] for tally in stats[group].values()) == stats["totals"][figure]
    assert sum(tally["admitted"] for tally in stats["models"].values()) == stats["totals"]["admitted"]


def test_what_was_refused_counts_among_the_sends_of_a_quota_but_not_among_the_admitted() -> None:
    stats = told([("admit", CALLERS[0]), ("refuse", CALLERS[0]), ("reject", CALLERS[0])])
    (quota,) = (q for q in stats["quotas"] if q.get("account") == "acme" and q["model"] == "*")
    assert (quota["max_received_60s"], quota["max_admitted_60s"]) == (3, 1)
    assert quota["max_tokens_60s"] == 120


def test_an_account_counts_its_keys_together() -> None:
    stats = told([("admit", CALLERS[0]), ("admit", CALLERS[2]), ("admit", CALLERS[3])])
    quotas = {(q.get("account"), q["model"]): q["max_in_flight"] for q in stats["quotas"] if "account" in q}
    assert quotas["acme", "deepseek-flash"] == 2
    assert quotas["other", "deepseek-flash"] == 1


def test_a_call_without_a_price_is_counted_as_such() -> None:
    ledger = Ledger()
    ledger.admit(0, CALLERS[0], 1)
    ledger.end(CALLERS[0], Ending("ok", True, False, AnswerUsage(1, 0, 1, 0), None))
    totals = ledger.as_json()["totals"]
    assert (totals["bill_micro_usd"], totals["unpriced"]) == (0, 1)


class TestLog:
    def test_an_entry_is_open_until_the_call_ends(self) -> None:
        log = CallLog()
        number = log.open(5.0, CALLERS[0], "task_1", b"\x01\x02")
        (entry,) = log.after(0, 10)
        assert (entry["sequence"], entry["arrived_at"], entry["task"]) == (1, 5.0, "task_1")
        assert (entry["status"], entry["outcome"], entry["duration"]) == (0, None, None)
        log.close(number, 200, "ok", 1.5)
        (entry,) = log.after(0, 10)
        assert (entry["status"], entry["outcome"], entry["duration"]) == (200, "ok", 1.5)
        assert entry["prompt_sha256"] == "0102"

    @given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 12))
    def test_pages_follow_each_other_over_what_the_ring_still_holds(
        self, written: int, after: int, limit: int
    ) -> None:
        log = CallLog(capacity=10)
        for number in range(written):
            log.open(float(number), CALLERS[0], None, b"")
        numbers = [entry["sequence"] for entry in log.after(after, limit)]
        held = range(max(1, written - 9), written + 1)
        assert numbers == [number for number in held if number > after][:limit]
        assert all(entry["arrived_at"] == entry["sequence"] - 1 for entry in log.after(after, limit))

    def test_the_end_of_a_call_that_the_ring_has_lost_disturbs_nobody(self) -> None:
        log = CallLog(capacity=2)
        first = log.open(0.0, CALLERS[0], None, b"")
        for number in range(2):
            log.open(float(number), CALLERS[0], None, b"")
        log.close(first, 200, "ok", 1.0)
        assert [entry["outcome"] for entry in log.after(0, 10)] == [None, None]
