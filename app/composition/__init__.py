"""The composition root: the only place that builds whole processes.

`container.py` builds the parts that several kinds of process share, each on first use. One module for each kind builds
the rest: `api.py`, `dispatcher.py` (the leader), `worker.py`, `callback_worker.py`; commands use the container alone.
`schema.py` imports all tables.

Uses all rooms below; entrances and `workers` use it.
"""
