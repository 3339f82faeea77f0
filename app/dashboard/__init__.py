"""The dashboard: web pages on the API's port.

Begin with `dashboard.py` (routes, errors) and `pages.py`. `live.py` reads and renders the overview once for all
viewers; `session.py` signs them in. Templates and static files are in folders of the same name.

It uses the use cases of the rooms below and no store.
"""
