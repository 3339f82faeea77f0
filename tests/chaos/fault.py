"""A fault: what is done to the world while it is under load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos.auditor import RECOVERY_SECONDS
from tests.chaos.world import ChaosWorld


@dataclass(frozen=True, slots=True)
class Fault:
    """`act` returns when the fault is over. Named `<what is hit>-<how>`."""

    name: str
    text: str
    act: Callable[[ChaosWorld], None]
    back_within: float = RECOVERY_SECONDS  # seconds from its end until the pace must be back


def chosen(faults: Sequence[Fault], wish: str) -> list[Fault]:
    """Those whose name is in `wish` or begins with a word of it (comma-separated); "": all.

    Raises ValueError for a word that fits none.
    """
    words = [word.strip() for word in wish.split(",") if word.strip()]
    for word in words:
        if not any(_fits(fault, word) for fault in faults):
            raise ValueError(f"no fault {word!r}; there are: {', '.join(fault.name for fault in faults)}")
    return [fault for fault in faults if not words or any(_fits(fault, word) for word in words)]


def _fits(fault: Fault, word: str) -> bool:
    return fault.name == word or fault.name.startswith(f"{word}-")
