"""Tasks and batches: their states, their tables, and the transitions of their rows.

Begin with `domain/task.py` (states, steps, priorities) and `store/tables.py`. Every transition is one compare-and-set
in `store/`; `store/progress.py` does what follows when tasks end, however they ended. At the top are the use cases
that need nothing but rows: read, list, cancel, delete, wait for an end.

Uses `platform`.
"""
