"""What the terminal shows of the components."""

from collections import deque
from types import SimpleNamespace

import pytest

from app.cli.supervisor.decisions import Component, Phase, ProcessState
from app.cli.supervisor.loop import Terminal

PART = Component("api", ("true",))


def child(*lines: str) -> SimpleNamespace:
    """A child of which only the last lines are asked."""
    return SimpleNamespace(tail=deque(lines))


def test_it_is_quiet_while_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(["api"], verbose=False)
    terminal.line("api", "a line")
    terminal.changed(PART, ProcessState(Phase.READY), None, None)
    assert capsys.readouterr().out == ""


def test_it_shows_everything_when_asked_with_the_name_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(["api", "worker-1"], verbose=True)
    terminal.line("api", "a line")
    assert capsys.readouterr().out == "api      | a line\n"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (ProcessState(Phase.BACKOFF, since=10, again_at=12.0), "restarting in 2.0 s"),
        (ProcessState(Phase.GAVE_UP), "giving up"),
    ],
)
def test_an_end_shows_its_last_words_and_what_follows(
    state: ProcessState, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Terminal(["api"], verbose=False).changed(PART, state, child("Traceback", "boom"), 1)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "boom" in said
    assert "exited with code 1" in said
    assert words in said


def test_a_recovered_component_is_said_to_be_ready_again(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(["api"], verbose=False).changed(PART, ProcessState(Phase.READY, failures=1), None, None)
    assert "ready" in capsys.readouterr().out
