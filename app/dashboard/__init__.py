"""The dashboard: pages for people, beside the API and on the same port.

Begin with `dashboard.py` (routes, sessions, errors) and `pages.py`. `live.py` reads once for all who look. Templates
and static files stand beside.

Uses the use cases of all rooms below; what it still reads from a `store` is listed in pyproject.toml.
"""
