"""HTTP: parse, authenticate, call one use case, render.

Begin with `application.py` and `operations.py` (one table, from which routes, /openapi.json and /docs are made).
`auth.py` is what every call passes first; `use_cases.py` has the use cases.

Uses the use cases of all rooms below; what it still reads from a `store` is listed in pyproject.toml.
"""
