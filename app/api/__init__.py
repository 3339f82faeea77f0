"""The HTTP API: parse, authenticate, call one use case, render.

Begin with `application.py` and `openapi.py` (the table from which routes, /openapi.json and /docs are generated).
Every call with a key passes `access_control.py`. The response models in `shapes.py`, its neighbours and
`app/tasks/views.py` render the responses and document them.

The use cases are built by `app/composition/api.py`. No store is imported.
"""
