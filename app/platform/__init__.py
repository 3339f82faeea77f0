"""What every room needs. Nothing here knows what a task is.

Database engines, transactions and group commit (`database.py` is where to begin), the connection to Redis and the
loader of Lua scripts (`redis_scripts.py`), encryption at rest (`encryption.py`), migrations, the clock, SSRF-safe
sockets, logs and traces. `domain/` has the plain values that all rooms share: errors, instants, durations, money,
addresses.

Uses no other room.
"""
