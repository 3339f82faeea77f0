"""What `penstock submit` makes of a template and a row."""

from __future__ import annotations

import pytest

from app.cli.batch.prompts import fill
from app.cli.failure import Failure

ROW = {"text": "a {brace} in a value", "into": "French"}


def test_columns_are_put_in_and_values_are_left_alone() -> None:
    assert (
        fill("Translate {text} into { into }", ROW, "row 2") == "Translate a {brace} in a value into French"
    )
    assert fill('{{"text": "{into}"}}', ROW, "row 2") == '{"text": "French"}'


@pytest.mark.parametrize(
    "template", ["Greet {into", "Greet into}", "{}", "{{into}", '{"text": "x"', "{a{into}}"]
)
def test_a_lone_brace_is_refused_before_anything_is_paid_for(template: str) -> None:
    with pytest.raises(Failure) as caught:
        fill(template, ROW, "row 2")
    assert "brace" in str(caught.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(Failure, match="row 2: there is no column 'name'; there are: text, into"):
        fill("Greet {name}", ROW, "row 2")
