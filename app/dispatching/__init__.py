"""The leader: who leads, what is released, and what is put right.

Begin with `dispatch.py` (one turn: snapshot, plan, release) and `reconcile.py` (what crashes left behind). `lead.py` is
the election, `feed_backlog.py` brings rows from the database into the backlog queues; the rest are the leader's chores,
one a file.

Uses every room below: `execution`, `submission`, `pacing`, `caching`, `billing`, `access`, `tasks`, `platform`.
"""
