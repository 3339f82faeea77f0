"""Finding the line at which something stands."""

import pytest

from app.settings.config_errors import line_of

TEXT = """\
# [[key]] in a comment does not count
top = 1
[[key]]
name = "one"
  [key.nested]
  deep = 1
[[ key ]]
name = "two" # name = "three"
"quoted name" = 2
dotted.name = 3
[retry.default]
attempts = 1
[retry."with space"]
attempts = 2
tiers = [
    ["name"],
]
[[key]]   # a third
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("top",), 2),
        (("key", 0), 3),
        (("key", 0, "name"), 4),
        (("key", 0, "nested", "deep"), 6),
        (("key", 1), 7),
        (("key", 1, "name"), 8),
        (("key", 1, "quoted name"), 9),
        (("key", 1, "dotted", "name"), 10),
        (("retry", "default", "attempts"), 12),
        (("retry", "with space", "attempts"), 14),
        (("retry", "with space", "tiers", 0, 1), 15),
        (("key", 2), 18),
        # what the text does not spell out: the nearest thing around it
        (("key", 2, "name"), 18),
        (("key", 0, "missing"), 3),
        (("top", "float"), 2),
        # nothing of it is there
        (("nothing",), None),
        (("key", 7, "name"), None),
        ((), None),
    ],
)
def test_the_line_of_a_place(place: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(TEXT, place) == line


def test_an_array_written_inline_gives_the_line_it_starts_on() -> None:
    assert line_of('\nkey = [\n  {name = "a"},\n]\n', ("key", 0, "name")) == 2
