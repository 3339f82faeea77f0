"""How fast, by which key, and whose turn it is.

Begin with `domain/plan.py`: a snapshot in, releases out, pure. Around it: fairness, prefix affinity, breakers, brakes,
and the estimation of limits that nobody configured (`domain/governor.py`, `domain/learner.py`). `store/` is the gate
in Redis with its Lua scripts, which check every limit again; permits and backlog queues live there.

Uses `upstreams` (verdicts, key health), `settings` (quotas, routes), `tasks` and `platform`.
"""
