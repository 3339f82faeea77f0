"""The HTTP API: parse, authenticate, call one use case, render.

Begin with `application.py` and `openapi.py` (the table from which routes, /openapi.json and /docs are generated).
Every call with a key passes `access_control.py`. `shapes.py` and its neighbours document the responses.

The use cases are built by `app/composition/api.py`. The imports from a `store` that remain are listed in
pyproject.toml.
"""
