"""How fast, by which key, and in which order tasks are released.

Begin with `domain/plan.py`: a snapshot in, releases out, pure. `domain/route_availability.py` and `domain/fairness.py`
are its parts. `domain/rate_controller.py` turns reported calls into limits: breakers, brakes, response times, and
estimates of limits that nobody configured (`domain/limit_estimator.py`). `store/` is the pacing store, permits and
backlog queues in Redis; its Lua scripts check every limit again.

Uses `upstreams` (verdicts, key health), `settings` (quotas, routes), `tasks` and `platform`.
"""
