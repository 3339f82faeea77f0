"""API keys, callback secrets, names of clients."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.domain.caller import hash_key, is_slug, looks_like_key, make_callback_secret, make_key


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_pk_and_43_characters_and_is_stored_only_as_its_hash(chance: bytes) -> None:
    key = make_key(chance)
    assert looks_like_key(key.shown)
    assert len(key.shown) == 46
    assert key.hash == hashlib.sha256(key.shown.encode()).hexdigest() == hash_key(key.shown)
    assert key.shown.endswith(key.hint)
    assert len(key.hint) == 4


@given(st.binary(min_size=32, max_size=32))
def test_a_callback_secret_is_whsec_and_base64(chance: bytes) -> None:
    secret = make_callback_secret(chance)
    assert secret.startswith("whsec_")
    assert base64.b64decode(secret.removeprefix("whsec_"), validate=True) == chance


@pytest.mark.parametrize("count", [0, 16, 31, 33])
def test_less_chance_than_256_bits_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        make_key(bytes(count))


@pytest.mark.parametrize(
    "shown", ["", "pk_", "pk_" + "a" * 42, "pk_" + "a" * 44, "sk_" + "a" * 43, "pk_" + "é" * 43]
)
def test_what_cannot_be_a_key_needs_no_database(shown: str) -> None:
    assert not looks_like_key(shown)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("acme", True),
        ("a-1", True),
        ("team_a", True),
        ("", False),
        ("A", False),
        ("a.b", False),
        ("a" * 41, False),
    ],
)
def test_a_client_is_named_by_a_slug(name: str, good: bool) -> None:
    assert is_slug(name) is good
