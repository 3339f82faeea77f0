"""A loop outlives whatever its body raises, says so, and ends when it is told to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from app.platform.background_loop import END, BackgroundLoop, count_failures

PATIENCE = 30.0
QUICK = (0.0, 0.0)


class Body:
    """Raises what it is given, in turn, and then nothing more."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.well = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        self.well.set()


@pytest.fixture
def failures() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    count_failures(lambda name: counted.update([name]))
    yield counted
    count_failures(lambda _name: None)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), IndexError(), MemoryError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()],
)
def test_it_goes_on_after_any_error_and_says_and_counts_it(
    error: BaseException, failures: Counter[str]
) -> None:
    body = Body(error, error)
    loop = BackgroundLoop("audit", body, every=None, backoff=QUICK)
    with capture_logs() as logs:
        loop.start()
        assert body.well.wait(PATIENCE)
        assert loop.close(PATIENCE)
    assert failures == {"audit": 2}
    assert [line["event"] for line in logs] == ["a loop failed, and goes on"] * 2 + ["a loop works again"]
    assert logs[0]["loop"] == "audit"


def test_what_is_expected_is_a_warning_and_not_counted(failures: Counter[str]) -> None:
    body = Body(OSError("away"))
    loop = BackgroundLoop("beat", body, every=None, expected=(OSError,), backoff=QUICK)
    with capture_logs() as logs:
        loop.start()
        assert body.well.wait(PATIENCE)
        assert loop.close(PATIENCE)
    assert not failures
    assert next((line["log_level"], line.get("reason")) for line in logs) == ("warning", "away")


def test_it_waits_twice_as_long_after_each_failure_up_to_the_longest_and_then_as_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = [ValueError()] * 6
    body = Body(*errors)
    loop = BackgroundLoop("x", body, every=None, backoff=(0.5, 5.0))
    waited: list[float | None] = []
    monkeypatch.setattr(loop._stopped, "wait", waited.append)
    with capture_logs() as logs:
        loop.start()
        assert body.well.wait(PATIENCE)
        body.well.clear()
        body.errors = [ValueError()]
        loop.wake()
        assert body.well.wait(PATIENCE)
        assert loop.close(PATIENCE)
    assert waited == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 0.5]
    assert sum(line["event"] == "a loop failed, and goes on" for line in logs) == 4  # 1, 2, 4; and 1 again


def test_it_ends_when_its_body_says_so() -> None:
    loop = BackgroundLoop("x", lambda: END)
    loop.start()
    assert loop.join(PATIENCE)


@pytest.mark.parametrize(
    "make",
    [
        lambda body: BackgroundLoop("x", body, every=3600.0, at_once=False),
        lambda body: BackgroundLoop("x", body, every=3600.0),
        lambda body: BackgroundLoop("x", body, every=None, at_once=False),
    ],
)
def test_a_ring_calls_it_at_once_and_a_close_ends_its_wait(
    make: Callable[[Callable[[], None]], BackgroundLoop],
) -> None:
    body = Body()
    loop = make(body)
    loop.start()
    loop.wake()
    assert body.well.wait(PATIENCE)
    assert loop.close(PATIENCE)
    assert not loop.is_alive


def test_it_starts_once_and_never_after_it_was_stopped() -> None:
    ran: list[int | None] = []
    loop = BackgroundLoop("x", lambda: ran.append(threading.current_thread().ident), every=None)
    for _ in range(3):
        loop.start()
    loop.wake()
    assert loop.close(PATIENCE)
    loop.start()
    assert not loop.is_alive
    assert len(set(ran)) <= 1


def test_a_stop_ends_a_wait_inside_the_body_and_the_body_may_close_its_own_loop() -> None:
    inside = threading.Event()

    def body() -> None:
        inside.set()
        assert loop.wait(3600)
        loop.close()

    loop = BackgroundLoop("x", body)
    loop.start()
    assert inside.wait(PATIENCE)
    assert loop.close(PATIENCE)


def test_wake_is_called_when_it_is_to_stop() -> None:
    released = threading.Event()
    loop = BackgroundLoop("x", released.wait, wake=released.set)
    loop.start()
    assert loop.close(PATIENCE)
