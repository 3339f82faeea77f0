"""What stands in a log line, and what never does."""

import json

import structlog
from structlog.testing import LogCapture

from app.platform.logs import configure_logs, without_values


def logged(capture: LogCapture) -> dict[str, object]:
    (entry,) = capture.entries
    return dict(entry)


def test_an_exception_is_told_by_kind_and_place_without_its_words() -> None:
    capture = LogCapture()
    log = structlog.wrap_logger(None, processors=[without_values, capture])
    prompt = "SECRET prompt"
    try:
        try:
            raise KeyError(prompt)
        except KeyError:
            raise ValueError(f"cannot store {prompt}") from None
    except ValueError:
        log.exception("a row was refused", task_id="task_1")
    entry = logged(capture)
    assert entry["task_id"] == "task_1"
    assert "builtins.ValueError at " in str(entry["error"])
    assert "test_logs.py" in str(entry["error"])
    assert "SECRET" not in str(entry)


def test_what_led_to_an_exception_is_told_too() -> None:
    capture = LogCapture()
    log = structlog.wrap_logger(None, processors=[without_values, capture])
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        log.error("it failed", exc_info=error)
    assert "builtins.RuntimeError at " in str(logged(capture)["error"])
    assert " <- builtins.KeyError at " in str(logged(capture)["error"])


def test_lines_carry_the_bound_task_and_go_to_standard_error(capsys: object) -> None:
    configuration = structlog.get_config()
    try:
        configure_logs()
        with structlog.contextvars.bound_contextvars(task_id="task_1"):
            structlog.get_logger("penstock").warning("the database does not answer")
            structlog.get_logger("penstock").debug("nobody needs this")
    finally:
        structlog.configure(**configuration)
    out, err = capsys.readouterr()  # type: ignore[attr-defined]
    assert out == ""
    assert err.count("\n") == 1
    assert "the database does not answer" in err
    assert "task_id=task_1" in err


def test_as_json_each_line_is_an_object_with_the_ids_that_are_known(capsys: object) -> None:
    configuration = structlog.get_config()
    try:
        configure_logs(environ={"PENSTOCK_LOG_FORMAT": "json"})
        with structlog.contextvars.bound_contextvars(task_id="task_1", client_id="alice", request_id="req_1"):
            structlog.get_logger("penstock").warning("it\nbroke", batch_id="batch_1")
    finally:
        structlog.configure(**configuration)
    _, err = capsys.readouterr()  # type: ignore[attr-defined]
    line = json.loads(err)
    ids = {"task_id": "task_1", "client_id": "alice", "request_id": "req_1", "batch_id": "batch_1"}
    assert ids.items() <= line.items()
    assert (line["event"], line["level"]) == ("it\nbroke", "warning")
