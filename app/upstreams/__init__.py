"""Calling a provider, and understanding what comes back.

Begin with `call_upstream.py` (one POST within a total time, whole or streamed) and `domain/classify.py` (from a reply
to a verdict). Connections, repairs of parameters, the health of keys, tests of keys.

Uses `settings`, `tasks` and `platform`.
"""
