"""Who is next: fair shares of each quota among clients, of a client among its priorities, of a tier among its keys.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) with a call's dominant resource as its cost (Ghodsi et al., 2011):
on each quota a client has a virtual time; the smallest is next; a call moves it on by the seconds of the quota that
the call takes, over the client's weight. A client that comes anew starts at the time of whoever was served last, so
it waits for no backlog and gains nothing by having been away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.tasks.domain.task import PriorityStep

PRIORITY_WEIGHTS: Mapping[int, float] = {
    PriorityStep.HIGH: 16.0,
    PriorityStep.NORMAL: 4.0,
    PriorityStep.LOW: 1.0,
}


@dataclass(frozen=True, slots=True)
class ClientShare:
    """What a client was granted."""

    weight: float = 1.0
    granted: int = PriorityStep.NORMAL  # the highest priority that counts across clients

    def weight_at(self, step: int) -> float:
        """Its weight among clients for a task of this priority; 1 x `weight` at normal."""
        return self.weight * PRIORITY_WEIGHTS[max(step, self.granted)] / PRIORITY_WEIGHTS[PriorityStep.NORMAL]


@dataclass(slots=True)
class Shares:
    """Virtual times. Kept by the leader; a new leader starts with none, which treats all alike.

    `times[(resource, flow)]` is where a flow's next turn starts, `served[resource]` where the last one served started.
    """

    times: dict[tuple[str, str], float] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=dict)

    def start(self, resource: str, flow: str) -> float:
        """Where the flow's next turn starts: never in the past, so that nobody saves up turns by being away."""
        return max(self.times.get((resource, flow), 0.0), self.served.get(resource, 0.0))

    def charge(self, resource: str, flow: str, cost: float) -> None:
        """Move a flow on by `cost` (already divided by its weight)."""
        start = self.start(resource, flow)
        self.times[resource, flow] = start + cost
        self.served[resource] = start

    def forget_idle(self) -> None:
        """Drop what says no more than a newcomer's start would."""
        self.times = {key: time for key, time in self.times.items() if time > self.served.get(key[0], 0.0)}
