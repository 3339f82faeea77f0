"""Idempotency keys and fingerprints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.platform.domain.errors import Invalid
from app.submission.domain.request import Fingerprint, IdempotencyKey, check_repeat, parse_key


@pytest.mark.parametrize(
    ("header", "key"),
    [(None, None), ("abc", "abc"), ('"abc"', "abc"), (" a b ", "a b"), ("x" * 255, "x" * 255)],
)
def test_a_key_is_read_with_or_without_quotes(header: str | None, key: str | None) -> None:
    assert parse_key(header) == key


@pytest.mark.parametrize("header", ["", '""', "x" * 256, "schlüssel", "a\tb", "a\x00b"])
def test_other_keys_are_refused_by_name(header: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_key(header)
    assert (refusal.value.status, refusal.value.param) == (400, "Idempotency-Key")


@given(st.lists(st.binary(max_size=40)))
def test_a_fingerprint_does_not_depend_on_how_the_payload_was_cut(pieces: list[bytes]) -> None:
    cut, whole = Fingerprint("POST /v1/batch"), Fingerprint("POST /v1/batch")
    for piece in pieces:
        cut.add(piece)
    whole.add(b"".join(pieces))
    assert cut.text() == whole.text()
    assert len(cut.text()) == 64


def test_a_fingerprint_depends_on_the_operation() -> None:
    assert Fingerprint("POST /v1/tasks").text() != Fingerprint("POST /v1/batch").text()


def test_a_key_that_came_with_another_payload_is_refused_with_422() -> None:
    check_repeat(IdempotencyKey("k", "same"), "same")
    with pytest.raises(Invalid) as refusal:
        check_repeat(IdempotencyKey("k", "other"), "same")
    assert (refusal.value.status, refusal.value.code) == (422, "idempotency_key_reused")
