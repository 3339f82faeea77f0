"""`python -m simulator`: the simulated upstream on its own."""

from __future__ import annotations

from simulator.command import simulate_upstream

if __name__ == "__main__":
    simulate_upstream()
