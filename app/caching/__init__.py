"""The exact cache, and one upstream call for identical tasks in flight.

Begin with `domain/caching.py` (which tasks, under which key, which answers) and `domain/coalescing.py` (who leads, who
follows, who takes over). Answers are kept in Redis or in the database (`store/`), with a local copy in front.

Uses `billing`, `tasks` and `platform`.
"""
