"""Plain data to TOML and back."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.presets import DEMO, FOLDER
from app.cli.setup import to_toml

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
tables = st.recursive(
    st.dictionaries(texts, st.one_of(values, st.lists(values, max_size=3)), max_size=4),
    lambda inner: st.dictionaries(
        texts, st.one_of(values, inner, st.lists(inner, min_size=1, max_size=3)), max_size=4
    ),
    max_leaves=12,
)


@given(tables)
def test_what_is_written_reads_back_as_the_same(data: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(data)) == data


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.name)
def test_every_preset_survives_the_way(file: object) -> None:
    data = tomllib.loads((FOLDER / str(file)).read_text())
    assert tomllib.loads(to_toml(data)) == data


def test_what_is_unset_is_left_out() -> None:
    assert tomllib.loads(to_toml({"a": None, "b": {"c": None}})) == {"b": {}}
    assert DEMO.exists()
