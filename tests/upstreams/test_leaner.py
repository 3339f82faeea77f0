"""What an upstream assumes anyway is left out, and nothing else."""

import csv
import io

import orjson
import pytest

from app.billing.domain.usage import FIGURES, TIMES, as_csv
from app.upstreams.call_upstream import body_of
from app.upstreams.domain.request_parameters import strip_default_parameters
from tests.attempts import a_claimed

MONEY = ("currency", "cost_micros")
DEFAULTS = {"temperature": 1, "top_p": 1.0, "stream": False}


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"temperature": 1.0, "top_p": 1, "messages": []}, {"messages": []}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"temperature": True, "stream": 0}, {"temperature": True, "stream": 0}),
        ({"stream": False}, {}),
    ],
)
def test_only_what_says_the_same_is_dropped(body: dict[str, object], sent: dict[str, object]) -> None:
    assert strip_default_parameters(body, DEFAULTS) == sent


def test_a_body_goes_out_without_its_upstreams_defaults() -> None:
    claimed = a_claimed(request='{"messages":[],"temperature":1.0,"max_tokens":5}')
    body = orjson.loads(body_of(claimed, DEFAULTS))
    assert set(body) == {"model", "messages", "max_tokens"}
    assert "temperature" in orjson.loads(body_of(claimed))


def test_csv_disarms_what_a_spreadsheet_would_run() -> None:
    columns = dict.fromkeys((*FIGURES, *MONEY, *TIMES))
    (line,) = csv.DictReader(io.StringIO(as_csv([{**columns, "model": "=cmd()"}], ["model"])))
    assert (line["model"], line["cost"]) == ("'=cmd()", "")
