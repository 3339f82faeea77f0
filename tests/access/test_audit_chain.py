"""The audit chain: whatever is taken out, changed, moved or cut off shows."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from app.access.domain.audit import (
    RETENTION,
    ChainBreak,
    ChainCheck,
    ChainCopy,
    ChainEntry,
    ChainHead,
    Linked,
    RefusalFold,
    as_row,
    from_row,
    link,
)


def entries(count: int) -> list[ChainEntry]:
    return [
        ChainEntry(at=1_800_000_000.001 + n, action="POST /v1/tasks", client_id=f"c{n}") for n in range(count)
    ]


def chain(count: int) -> tuple[ChainHead, list[Linked]]:
    linked = link(ChainHead(), entries(count))
    return ChainHead(linked[-1].number, linked[-1].digest), linked


def verify(head: ChainHead, linked: list[Linked], copy: ChainCopy | None = None) -> ChainBreak | None:
    check = ChainCheck(head, copy)
    for one in linked:
        if fault := check.add(one):
            return fault
    return check.end()


def test_an_untouched_chain_holds() -> None:
    head, linked = chain(5)
    assert verify(head, linked) is None
    assert verify(ChainHead(), []) is None


def test_links_are_the_same_however_they_were_grouped() -> None:
    _, linked = chain(4)
    first = link(ChainHead(), entries(4)[:3])
    rest = link(ChainHead(first[-1].number, first[-1].digest), entries(4)[3:])
    assert [*first, *rest] == linked


@given(st.integers(0, 4))
def test_a_removed_entry_shows(index: int) -> None:
    head, linked = chain(5)
    fault = verify(head, linked[:index] + linked[index + 1 :])
    assert fault is not None
    assert fault.number == index + 1


@given(st.integers(0, 4))
def test_a_changed_entry_shows(index: int) -> None:
    head, linked = chain(5)
    one = linked[index]
    linked[index] = replace(one, entry=replace(one.entry, client_id="somebody-else"))
    assert verify(head, linked) == ChainBreak(
        index + 1, "the entry was changed, or the one before it was replaced"
    )


def test_two_exchanged_entries_show() -> None:
    head, linked = chain(3)
    linked[0], linked[1] = replace(linked[1], number=1), replace(linked[0], number=2)
    assert verify(head, linked) is not None


def test_a_chain_from_which_retention_took_the_beginning_holds() -> None:
    head, linked = chain(5)
    start = {"first": 3, "before": linked[1].digest}
    (said,) = link(head, [ChainEntry(2e9, RETENTION, details=json.dumps(start))])
    kept = ChainHead(said.number, said.digest, **start)
    assert verify(kept, [*linked[2:], said]) is None
    assert verify(kept, [*linked[3:], said]) is not None


def test_an_entry_survives_its_row() -> None:
    entry = replace(entries(1)[0], details='{"a": "ü"}', duration_ms=12)
    assert from_row(as_row(entry)) == entry


def copy_of(head: ChainHead) -> ChainCopy:
    return ChainCopy.parse(str(ChainCopy(head.first, head.number, head.digest)))


@given(st.integers(1, 9))
def test_a_beginning_that_retention_did_not_take_shows(gone: int) -> None:
    head, linked = chain(10)
    assert verify(replace(head, first=gone + 1, before=linked[gone - 1].digest), linked[gone:]) is not None


@given(st.integers(1, 9), st.integers(0, 3))
def test_a_beginning_that_retention_took_holds_against_a_copy_from_before(gone: int, later: int) -> None:
    head, linked = chain(10)
    start = {"first": gone + 1, "before": linked[gone - 1].digest}
    more = link(head, [ChainEntry(2e9, RETENTION, details=json.dumps(start)), *entries(later)])
    head_now = ChainHead(more[-1].number, more[-1].digest, **start)
    assert verify(head_now, [*linked[gone:], *more], copy_of(head)) is None


@given(st.integers(2, 9), st.integers(1, 9))
def test_a_chain_that_was_cut_or_written_anew_shows_against_a_copy(cut: int, changed: int) -> None:
    head, linked = chain(10)
    shorter = linked[:cut]
    assert verify(ChainHead(cut, shorter[-1].digest), shorter, copy_of(head)) is not None
    other = [
        replace(entry, client_id="x") if n == changed - 1 else entry for n, entry in enumerate(entries(12))
    ]
    anew = link(ChainHead(), other)
    new_head = ChainHead(anew[-1].number, anew[-1].digest)
    assert verify(new_head, anew) is None  # by itself it holds
    assert verify(new_head, anew, copy_of(head)) is not None


def refusal(at: float, address: str) -> ChainEntry:
    return ChainEntry(at, "GET /v1/tasks", address=address, status=401, request_id="chosen by a stranger")


@given(st.lists(st.tuples(st.floats(0, 300), st.sampled_from("abc")), max_size=60))
def test_refusals_are_folded_by_address_and_minute_and_none_is_lost(calls: list[tuple[float, str]]) -> None:
    fold = RefusalFold()
    alone = [kept for at, address in calls if (kept := fold.take(refusal(at, address)))]
    folded = fold.due(float("inf"))
    assert len(alone) == len({(int(at // 60), address) for at, address in calls})
    assert len(alone) + sum(json.loads(one.details)["more_in_this_minute"] for one in folded) == len(calls)
    assert not any("stranger" in str(one) for one in alone)


def test_a_flood_from_many_addresses_takes_bounded_room_and_known_callers_are_never_folded() -> None:
    fold = RefusalFold()
    found = [fold.take(refusal(1.0, str(number))) for number in range(RefusalFold.MOST + 500)]
    assert sum(one is not None for one in found) == RefusalFold.MOST + 1
    assert [json.loads(one.details) for one in fold.due(60.0)] == [{"more_in_this_minute": 499}]
    known = ChainEntry(1.0, "GET /v1/tasks", client_id="alice", status=401)
    assert fold.take(known) == fold.take(known) == known
