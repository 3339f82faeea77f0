"""The leader: election, releases, and everything it does periodically.

Begin with `dispatch.py` (one tick: snapshot, plan, release). `leadership.py` is the election and the rebuild after
Redis lost its data; `feed_backlog.py` moves rows from the database into the backlog queues; `reconcile.py` repairs what
crashes left behind. `workers.dispatcher` runs these and the other jobs (`housekeeping.py`, `waiting_tasks.py`);
`key_supervisor.py` and `tick_handoff.py` hold what the tick shares with other threads.

Uses every room below: `execution`, `submission`, `pacing`, `caching`, `billing`, `access`, `tasks`, `platform`.
"""
