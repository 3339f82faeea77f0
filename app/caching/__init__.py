"""The exact cache, and coalescing: one upstream call for identical tasks in flight.

Begin with `domain/caching.py` (which tasks, under which key, which answers), `domain/coalescing.py` (who leads, who
follows, who takes over) and `use_cache.py`. Answers are kept in Redis or in the database (`store/`), with a local copy
in each process.

Uses `billing`, `tasks` and `platform`.
"""
