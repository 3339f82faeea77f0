"""Notifying clients that their tasks and batches have ended.

Rows of the outbox are written with the transition that makes them due (`app/tasks/store/progress.py`). This room does
the rest: `feed_callbacks.py` finds what is due, `deliver_callback.py` (begin there) claims, signs, sends and
records one delivery. Retries, dead letters and their replay, one limit for each receiving host.

Uses `access`, `tasks` and `platform`.
"""
