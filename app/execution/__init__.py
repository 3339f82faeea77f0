"""The worker's side of a released task.

Start with `run_task.py`: redeem the permit, claim the row, call, classify, record, release the permit. What is decided
between the call and the record is in `domain/retry.py`; `store/endings.py` records it, in one transaction with
everything that follows. `in_flight.py` and `report_worker.py` are about the process itself: what it holds, how it
drains, what it reports. `celery_app.py` configures Celery and encodes the messages.

Uses `pacing`, `upstreams`, `caching`, `billing`, `tasks` and `platform`.
"""
