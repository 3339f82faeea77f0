"""`python -m app.simulator`: the simulated upstream on its own."""

from __future__ import annotations

from app.simulator.command import simulate_upstream

if __name__ == "__main__":
    simulate_upstream()
