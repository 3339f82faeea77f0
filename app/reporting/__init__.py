"""How the service stands, for people and for monitoring.

Begin with `read_dispatcher.py` and `read_overview.py`; `domain/board.py` turns what was read into lines. Metrics
(`meters.py`, `service_figures.py`: every name and unit), alerts from rule to channel (`watch_alerts.py`), and why a
task waits (`store/why_board.py`).

Uses all rooms below; nothing below asks it.
"""
