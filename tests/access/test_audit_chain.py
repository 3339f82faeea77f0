"""The audit chain: whatever is taken out, changed, moved or cut off shows."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from app.access.domain.audit import (
    ChainBreak,
    ChainCheck,
    ChainEntry,
    ChainHead,
    Linked,
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


def verify(head: ChainHead, linked: list[Linked]) -> ChainBreak | None:
    check = ChainCheck(head)
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
    kept = replace(head, first=3, before=linked[1].digest)
    assert verify(kept, linked[2:]) is None
    assert verify(kept, linked[3:]) is not None


def test_an_entry_survives_its_row() -> None:
    entry = replace(entries(1)[0], details='{"a": "ü"}', duration_ms=12)
    assert from_row(as_row(entry)) == entry
