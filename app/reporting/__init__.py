"""The state of the service, for people and for monitoring.

Begin with `read_service.py`: one snapshot, rendered by `read_overview.py` (dashboard), `read_dispatcher.py` (/v1/admin)
and `meters.py` (/metrics). `watch_alerts.py` evaluates alert rules, `send_alerts.py` sends the messages, and
`store/pacing_snapshot.py` reads why a task waits.

Uses all rooms below; none of them uses it.
"""
