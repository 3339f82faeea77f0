"""Where everything real is made, and nowhere else.

`container.py` makes each part on first use, out of the configuration. `schema.py` knows all tables.

Uses all rooms below; entrances and `workers` use it.
"""
