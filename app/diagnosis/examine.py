"""Runs checks in parallel. One that hangs or breaks never hides the results of the others."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.diagnosis.domain.finding import Finding, fail
from app.settings import ConfigError

WITHIN = 45.0  # seconds for all checks; each probe has a shorter timeout of its own
AT_ONCE = 8

Look = Callable[[], Sequence[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check and the heading it appears under."""

    section: str
    name: str
    look: Look


@dataclass(frozen=True, slots=True)
class Examined:
    """A check and its findings."""

    check: Check
    findings: tuple[Finding, ...]


def examine(
    checks: Sequence[Check], *, came: Callable[[Check], object] = lambda _check: None, within: float = WITHIN
) -> list[Examined]:
    """Run all checks, eight at a time, and return their findings in the given order.

    `came` is called in the caller's thread for each check that finishes. A check that takes longer than `within`
    seconds is reported as failed; its daemon thread does not keep the process alive.
    """
    wanted: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, tuple[Finding, ...]]] = queue.SimpleQueue()
    for number in range(len(checks)):
        wanted.put(number)
    for _ in range(min(AT_ONCE, len(checks))):
        threading.Thread(target=_work, args=(checks, wanted, done), daemon=True).start()
    found: dict[int, tuple[Finding, ...]] = {}
    until = time.monotonic() + within
    while len(found) < len(checks):
        try:
            number, findings = done.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        found[number] = findings
        came(checks[number])
    return [Examined(check, found.get(n) or _silent(check, within)) for n, check in enumerate(checks)]


def _work(
    checks: Sequence[Check],
    wanted: queue.SimpleQueue[int],
    done: queue.SimpleQueue[tuple[int, tuple[Finding, ...]]],
) -> None:
    while True:
        try:
            number = wanted.get_nowait()
        except queue.Empty:
            return
        done.put((number, _looked(checks[number])))


def _looked(check: Check) -> tuple[Finding, ...]:
    try:
        return tuple(check.look())
    except ConfigError as error:
        return (fail(check.name, error.message, error.hint),)
    except Exception as error:  # noqa: BLE001  # a broken check is a finding; its message may hold a secret
        said = f"the check failed ({type(error).__name__})"
        return (fail(check.name, said, "Fix the failures above first; if there are none, report this."),)


def _silent(check: Check, within: float) -> tuple[Finding, ...]:
    said = f"no result within {within:g} s"
    return (fail(check.name, said, "Something in between neither answers nor refuses: check firewalls."),)
