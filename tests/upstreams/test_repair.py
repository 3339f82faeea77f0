"""Repairs: remembered as a note, applied to the request."""

import pytest

from app.upstreams.domain.request_parameters import ParameterFix, remembered_fixes

ALL = [
    ParameterFix("clamp", "max_tokens", "8192"),
    ParameterFix("rename", "max_tokens", "max_completion_tokens"),
    ParameterFix("drop", "seed"),
]


@pytest.mark.parametrize("repair", ALL)
def test_a_repair_is_remembered_among_what_a_task_avoids(repair: ParameterFix) -> None:
    assert remembered_fixes(("key-1", str(repair), "unknown:key-1")) == (repair,)


def test_a_note_can_travel_in_a_list_separated_by_commas() -> None:
    assert all("," not in str(repair) and "|" not in str(repair) for repair in ALL)


@pytest.mark.parametrize(
    ("repair", "before", "after"),
    [
        (ALL[0], {"max_tokens": 9000, "n": 1}, {"max_tokens": 8192, "n": 1}),
        (ALL[0], {"max_tokens": 10}, {"max_tokens": 10}),
        (ALL[0], {}, {}),
        (ALL[1], {"max_tokens": 5}, {"max_completion_tokens": 5}),
        (ALL[1], {"max_tokens": 5, "max_completion_tokens": 3}, {"max_completion_tokens": 3}),
        (ALL[2], {"seed": 1, "messages": []}, {"messages": []}),
    ],
)
def test_a_repair_changes_its_parameter_alone(repair: ParameterFix, before: dict, after: dict) -> None:
    assert repair.apply(before) == after
