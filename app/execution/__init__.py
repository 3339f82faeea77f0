"""The worker's side of a released task.

Begin with `run_task.py`: redeem the permit, claim the row, call, classify, decide, record, release the permit.
`store/endings.py` records what attempts came to, in one transaction with everything that follows. Beats, slots and the
end of a worker process stand beside it.

Uses `pacing`, `upstreams`, `caching`, `billing`, `tasks` and `platform`.
"""
