"""One process that the supervisor keeps alive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Component:
    """What to start, after what, and how to tell that it is ready.

    `after` names the components that must be ready first; they are stopped only when this one is gone.
    `probe` answers whether it is ready; without one it says so itself (`lifeline.ready`), and a component
    that runs `once` is ready when it has ended with 0.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    probe: Callable[[], bool] | None = None
    once: bool = False
    renewed: bool = False  # reads the configuration at its start, so that a reload starts it again
    start_seconds: float = 120.0  # then it counts as failed; a busy machine takes half a minute
    stop_seconds: float = 10.0  # then it is killed
